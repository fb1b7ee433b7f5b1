"""Ablations of Hope: held-out loss after the same tokens, and recall, with one part changed."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from nestling.core.result import Result
from nestling.core.statistics import Paired
from nestling.report import Section, Table
from nestling.tasks.recall import Recall
from nestling.train import TrainConfig
from nestling_lab.studies.answers import differences, grouped, listed
from nestling_lab.studies.diverged import over
from nestling_lab.studies.figure_lm import HOPE
from nestling_lab.studies.figure_lm_tuned import MODELS
from nestling_lab.studies.lm_report import SHOWN, compared
from nestling_lab.studies.recall_smoke import recall_result
from nestling_lab.studies.study import Cell, Finding, Study, Tell, silent
from nestling_lab.studies.text import Text, text_result

WHOLE = "hope"  # nothing changed
TITANS, CMS = "self_titans.", "cms."
# arm -> overrides of the preset, one change per arm
ARMS: dict[str, dict[str, Any]] = {
    WHOLE: {},
    "projections clipped at 4": {TITANS + "projection_clip": None},
    "writes off": {"writes": False},
    "one level of CMS": {CMS + "periods": [256], CMS + "intermediate_size": 192},
    "three levels of CMS": {CMS + "periods": [64, 128, 256], CMS + "intermediate_size": 64},
    "four levels of CMS": {CMS + "periods": [32, 64, 128, 256], CMS + "intermediate_size": 48},
    "slow CMS": {CMS + "periods": [256, 1024]},
    "periods of 16": {TITANS + "period": 16, TITANS + "projection_period": 16},
    "long start": {TITANS + "initial_length": 0.9},
    "dot objective": {TITANS + "objective": "dot"},
    "no convolution": {TITANS + "convolution": 1},
    "no momentum": {TITANS + "momentum": False},
    "no decay": {TITANS + "decay": False},
    "no eraser": {TITANS + "rule": "gd"},
    "eraser of the whole weight": {TITANS + "erase": "whole"},
    "decay to zero": {TITANS + "decay_to": "zero"},
    "k projected": {TITANS + "adaptive_k": False},
    "v projected": {TITANS + "adaptive_v": False},
    "q of a memory": {TITANS + "adaptive_q": True},
    "rates projected": {TITANS + "adaptive_eta": False, TITANS + "adaptive_alpha": False},
    "matrix memories": {TITANS + "network": "matrix"},
    "read before the write": {TITANS + "read": "pre"},
}
# arm -> settings of training; on text only
TRAINED: dict[str, dict[str, Any]] = {
    "one rate of 0.004": {"learning_rate": 4e-3, "rates_by_role": False},
    "one rate of 0.008": {"learning_rate": 8e-3, "rates_by_role": False},
    "0.004 by role": {"learning_rate": 4e-3},
    "0.008 by role": {"learning_rate": 8e-3},
}
TASKS = ("text", "recall")


class HopeAblation(Study):
    """Every arm with every seed: one model reads text, another of the same shape learns recall."""

    name = "hope-ablation"
    question = "which parts of Hope do its held-out loss and its recall need"

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Sizes of the study."""

        arms: tuple[str, ...] = (*ARMS, *TRAINED)
        seeds: tuple[int, ...] = (0, 1, 2)  # of weights, and of the order of what is read
        text: Text = field(default_factory=lambda: Text(corpus="standard"))
        train: TrainConfig = field(
            # the settings of head-level
            default_factory=lambda: TrainConfig(
                steps=150,
                batch_size=8,
                sequence_length=256,
                learning_rate=1.6e-2,
                rates_by_role=True,
                save_every=0,
            )
        )
        held_out_tokens: int = 98304
        task: Recall.Config = field(default_factory=lambda: Recall.Config(period=32))
        test_count: int = 200  # sequences, of seeds that training never uses
        recall: TrainConfig = field(
            default_factory=lambda: TrainConfig(
                steps=100,
                batch_size=32,
                sequence_length=Recall(Recall.Config(period=32)).length,
                learning_rate=3e-3,
                rates_by_role=False,
                carry=False,
                save_every=0,
            )
        )

    def __init__(self, config: Config | None = None):
        self.config = config or HopeAblation.Config()

    def cell(self, arm: str, task: str, seed: int) -> Cell:
        """One training run."""
        own = self.config
        train = dataclasses.replace(
            own.train if task == "text" else own.recall, seed=seed, **TRAINED.get(arm, {})
        )
        config: dict[str, Any] = {
            "arm": arm,
            "preset": f"{HOPE}-tiny",
            "overrides": {**MODELS[HOPE], **ARMS.get(arm, {})},
            "train": dataclasses.asdict(train),
        }
        if task == "text":
            config["text"] = dataclasses.asdict(own.text)
            config["held_out_tokens"] = own.held_out_tokens
        else:
            config |= {"task": dataclasses.asdict(own.task), "test_count": own.test_count}
        return Cell(f"{task}-{arm.replace(' ', '-')}-seed{seed}", config, seed)

    def cells(self, done: Mapping[str, Result]) -> list[Cell]:
        """Text before recall, each with every arm of the first seed first."""
        own = self.config
        return [
            self.cell(arm, task, seed)
            for task in TASKS
            for seed in own.seeds
            for arm in own.arms
            if task == "text" or arm not in TRAINED
        ]

    def run(self, cell: Cell, *, tell: Tell = silent, device: str = "cpu") -> Result:
        """Train and measure one model."""
        result = text_result if "text" in cell.config else recall_result
        return result(f"{self.name}/{cell.name}", cell.config, tell=tell, device=device)

    def runs(self, arm: str, task: str, done: Mapping[str, Result]) -> dict[int, Result]:
        """The finished runs of an arm, by seed."""
        cells = {seed: self.cell(arm, task, seed).name for seed in self.config.seeds}
        return {seed: done[name] for seed, name in cells.items() if name in done}

    def find(self, done: Mapping[str, Result]) -> Finding:
        """Each arm compared with unchanged Hope, paired by seed."""
        found = {
            task: {arm: self.runs(arm, task, done) for arm in self.config.arms} for task in TASKS
        }
        found = {
            task: {a: runs for a, runs in arms.items() if runs} for task, arms in found.items()
        }
        losses = compared(found["text"], WHOLE)
        gaps = differences(losses)
        rows = [
            (
                arm,
                len(found["text"].get(arm, {})),
                _over(found["text"].get(arm, {}), _val_loss),
                gaps.get(arm, "-"),
                _over(found["recall"].get(arm, {}), _accuracy),
            )
            for arm in self.config.arms
            if any(arm in found[task] for task in TASKS)
        ]
        columns = ("arm", "seeds", "held-out loss", f"less that of {WHOLE}", "recall")
        shown = Section("In short", SHOWN, [Table(columns=columns, rows=rows)] if rows else [])
        metrics = {
            "loss": {a: _figures(runs, _val_loss) for a, runs in found["text"].items()},
            "recall": {a: _figures(runs, _accuracy) for a, runs in found["recall"].items()},
        }
        sections = [
            Section("Method", self._about()),
            Section("The arms", tables=[self._arms(found["text"])]),
        ]
        return Finding(metrics, sections, answer(losses, len(self.config.arms) - 1), shown)

    def _arms(self, runs: Mapping[str, Mapping[int, Result]]) -> Table:
        rows = [
            (
                arm,
                ", ".join(f"`{key}={value}`" for key, value in _changed(arm).items()) or "-",
                _parameters(runs.get(arm, {})),
            )
            for arm in self.config.arms
        ]
        return Table(columns=("arm", "changed", "parameters"), rows=rows)

    def _about(self) -> str:
        own, task = self.config, Recall(self.config.task)
        tokens = own.train.steps * own.train.batch_size * own.train.sequence_length
        return (
            f"The Hope of figure-lm-tuned reads {tokens:,} tokens of {own.text.corpus} at a rate "
            f"of {own.train.learning_rate:g} with the factors that its memories declare, the same "
            "for every arm that does not name another, and is measured on the same "
            f"{own.held_out_tokens:,} held-out tokens (nats a token; mean and 95 % interval). "
            f"Recall, at one rate of {own.recall.learning_rate:g}: {own.recall.steps:,} steps of "
            f"{own.recall.batch_size} sequences with "
            f"{task.config.keys} pairs of {task.config.values} values, asked for at least "
            f"{2 * task.config.period} tokens later; share of right answers, chance "
            f"{task.chance:.3g}."
        )


def _changed(arm: str) -> dict[str, Any]:
    return {**ARMS, **TRAINED}[arm]


LARGEST = 5  # differences named by the answer


def answer(losses: Mapping[str, Paired], arms: int) -> str:
    """Which parts of Hope its loss depends on, among those that were run."""
    if not losses:
        return "Open: no part of Hope has been changed yet in a run that can be compared."
    above, below, alike = grouped(losses)
    parts = [
        f"with {listed(names)} the loss {verb}"
        for verb, names in (
            ("rises significantly", above),
            ("falls significantly", below),
            ("is not significantly different", alike if len(alike) <= LARGEST else []),
        )
        if names
    ]
    if len(alike) > LARGEST:
        means = {name: losses[name].difference.mean for name in alike}
        order = sorted(alike, key=lambda name: -abs(means[name]))[:LARGEST]
        told = listed(f"{name} ({means[name]:+.3f})" for name in order)
        parts.append(
            f"of the {'other ' if above or below else ''}{len(alike)} no difference in loss is "
            f"significant, the largest are {told}"
        )
    if len(losses) == arms:
        return f"All {arms} changes have been run; {', '.join(parts)}."
    run = f"{len(losses)} of {arms} changes {'has' if len(losses) == 1 else 'have'} been run"
    return f"Open: {run}; {', '.join(parts)}."


def _val_loss(metrics: Mapping[str, Any]) -> float:
    return metrics["val_loss"]


def _accuracy(metrics: Mapping[str, Any]) -> float:
    return metrics["accuracy"]


def _over(runs: Mapping[int, Result], figure: Callable[[Mapping[str, Any]], float]) -> str:
    return str(over([run.metrics for run in runs.values()], figure)) if runs else "-"


def _figures(
    runs: Mapping[int, Result], figure: Callable[[Mapping[str, Any]], float]
) -> list[float | None]:
    return [None if r.metrics["diverged"] else figure(r.metrics) for r in runs.values()]


def _parameters(runs: Mapping[int, Result]) -> int | None:
    return next((r.metrics["num_parameters"] for r in runs.values()), None)
