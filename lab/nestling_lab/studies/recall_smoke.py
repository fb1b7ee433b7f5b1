"""Do the writes work at all? In-context recall with and without them."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from nestling.core.result import Result, provenance
from nestling.evals.questions import Questions, answers, unseen_examples
from nestling.models import create
from nestling.report import Section, Table
from nestling.tasks.recall import Recall
from nestling.train import NotFinite, TrainConfig, train, train_config
from nestling_lab.studies.answers import NOTHING, apart, listed, share
from nestling_lab.studies.diverged import over
from nestling_lab.studies.study import Cell, Finding, Study, Tell, silent

PERIOD = 32  # tokens; the period of the preset's memories
ARMS = {"on": True, "off": False}


class RecallSmoke(Study):
    """A small Hope trained in the same way with writes on and off, and tested on recall."""

    name = "recall-smoke"
    question = "does a two-layer Hope recall pairs it has read once, and only with its writes on"

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Sizes of the study."""

        seeds: tuple[int, ...] = (0, 1, 2)  # of weights and of examples
        preset: str = "hope-tiny"  # source of the memories and their options
        overrides: dict[str, Any] = field(
            default_factory=lambda: {"num_hidden_layers": 2, "hidden_size": 128, "num_heads": 4}
        )
        task: Recall.Config = field(default_factory=lambda: Recall.Config(period=PERIOD))
        test_count: int = 200  # sequences, of seeds that training never uses
        train: TrainConfig = field(
            default_factory=lambda: TrainConfig(
                steps=400,
                batch_size=32,
                sequence_length=Recall(Recall.Config(period=PERIOD)).length,
                learning_rate=3e-3,
                rates_by_role=False,
                carry=False,
                save_every=0,
            )
        )

    def __init__(self, config: Config | None = None):
        self.config = config or RecallSmoke.Config()

    def cell(self, arm: str, seed: int) -> Cell:
        """One training run."""
        train = dataclasses.replace(self.config.train, seed=seed)
        config = {
            "preset": self.config.preset,
            "overrides": {**self.config.overrides, "writes": ARMS[arm]},
            "task": dataclasses.asdict(self.config.task),
            "test_count": self.config.test_count,
            "train": dataclasses.asdict(train),
        }
        return Cell(f"writes-{arm}-seed{seed}", config, seed)

    def cells(self, done: Mapping[str, Result]) -> list[Cell]:
        """Both arms with every seed."""
        return [self.cell(arm, seed) for seed in self.config.seeds for arm in ARMS]

    def run(self, cell: Cell, *, tell: Tell = silent, device: str = "cpu") -> Result:
        """Train on new sequences, then test on others."""
        return recall_result(f"{self.name}/{cell.name}", cell.config, tell=tell, device=device)

    def find(self, done: Mapping[str, Result]) -> Finding:
        """The accuracies of both arms, by seed."""
        found = {
            arm: {
                seed: done[self.cell(arm, seed).name].metrics
                for seed in self.config.seeds
                if self.cell(arm, seed).name in done
            }
            for arm in ARMS
        }
        task = Recall(self.config.task)
        rows = [
            (f"writes {arm}", seed, "diverged" if run["diverged"] else run["accuracy"])
            for arm, by_seed in found.items()
            for seed, run in by_seed.items()
        ]
        means = [
            (
                f"writes {arm}",
                len(by_seed),
                str(over(by_seed.values(), lambda run: run["accuracy"])),
                task.chance,
            )
            for arm, by_seed in found.items()
        ]
        metrics = {
            **{f"accuracy_writes_{arm}": accuracies(by_seed) for arm, by_seed in found.items()},
            "seeds_writes_on": list(found["on"]),
            "seeds_writes_off": list(found["off"]),
            "chance": task.chance,
        }
        columns = ("model", "seeds", "accuracy, mean and 95 % interval", "chance")
        shown = Section("In short", tables=[Table(columns=columns, rows=means)] if done else [])
        sections = [
            Section("Method", self._about(task)),
            Section("Every run", tables=[Table(columns=("model", "seed", "accuracy"), rows=rows)]),
        ]
        return Finding(metrics, sections, answer(found, task.chance), shown)

    def _about(self, task: Recall) -> str:
        config, train = self.config, self.config.train
        return (
            f"{task.config.keys} keys, each paired with one of {task.config.values} values drawn "
            f"anew in every sequence of {task.length} tokens; each pair is written once and asked "
            f"for once, at least {2 * task.config.period} tokens later; only answers are scored. "
            f"Training: {train.steps:,} steps of {train.batch_size} fresh sequences; test: "
            f"{config.test_count} others. With writes off every memory stays at its learned "
            "initial state; everything else is the same."
        )


def answer(found: Mapping[str, Mapping[int, Mapping[str, Any]]], chance: float) -> str:
    """Whether pairs are recalled, and whether that is due to the writes (95 % intervals apart)."""
    known = {
        arm: over(by_seed.values(), lambda run: run["accuracy"])
        for arm, by_seed in found.items()
        if by_seed
    }
    if not known:
        return NOTHING
    told = listed(
        f"{share(figure.mean) if figure.count else 'nothing (all runs diverged)'} with writes {arm}"
        for arm, figure in known.items()
    )
    told = f"after one reading Hope recalls {told} (chance {share(chance)})"
    if len(known) < len(ARMS):
        return f"Open: {told}; the other arm has not been run yet."
    if not apart(known["on"], known["off"]):
        return f"Open: {told}, not significantly different."
    return f"{'Yes' if known['on'].mean > known['off'].mean else 'No'}: {told}."


def accuracies(by_seed: Mapping[int, Mapping[str, Any]]) -> list[float | None]:
    """The accuracies by seed; None for a diverged run."""
    return [None if run["diverged"] else run["accuracy"] for run in by_seed.values()]


def recall_result(name: str, cell: Mapping[str, Any], *, tell: Tell, device: str) -> Result:
    """The Result of a cell with ``preset``, ``overrides``, ``task``, ``test_count``, ``train``."""
    task = Recall(Recall.Config(**cell["task"]))
    config = train_config(cell["train"])
    seed = config.seed
    model = create(cell["preset"], vocab_size=task.vocab_size, seed=seed, **cell["overrides"])
    loader = Questions(task, batch_size=config.batch_size, seed=seed)

    def after_step(run: Any) -> None:
        tell(run.totals.step, config.steps, run.totals.loss)

    try:
        metrics = train(model.to(device), loader, config, quiet=True, after_step=after_step)
    except NotFinite as error:
        metrics = {"diverged": True, "reason": str(error)}
    else:
        test = unseen_examples(task, seed=seed, count=cell["test_count"])
        accuracy = task.score(answers(model.eval(), test.input_ids), test.labels)
        metrics |= {"diverged": False, "accuracy": accuracy, "chance": task.chance}
    return Result(
        name=name,
        config=dict(cell),
        metrics=metrics,
        seed=seed,
        corpus=None,
        provenance=provenance(device),
    )
