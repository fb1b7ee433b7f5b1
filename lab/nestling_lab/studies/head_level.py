"""The value of a head written in context to Hope and Mamba2, and of learning rates by role."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from nestling.core.result import Result, provenance
from nestling.core.statistics import Paired
from nestling.report import Section, Table
from nestling.train import TrainConfig, train_config
from nestling_lab.studies.answers import differences, grouped, listed
from nestling_lab.studies.diverged import over
from nestling_lab.studies.figure_lm import MODELS
from nestling_lab.studies.lm_report import SHOWN, gap
from nestling_lab.studies.study import Cell, Finding, Study, Tell, silent
from nestling_lab.studies.text import Text, train_on_text

HEAD = {"head_period": 32}
CONTEXT = {**HEAD, "head_keys": "context"}
SLOTS = {"head_slots": 1024}
# both levels of the chain are written at every step of 256 tokens per stream
FAST = {"cms.periods": (128, 256)}
HOPE, MAMBA2 = "hope", "mamba2"
# system -> (model of figure-lm, changes to it, learning rate, whether rates go by role)
SYSTEMS: dict[str, tuple[str, dict[str, Any], float, bool]] = {
    "mamba2": (MAMBA2, {}, 1.6e-2, False),
    "mamba2-head": (MAMBA2, HEAD, 1.6e-2, False),
    "mamba2-context": (MAMBA2, CONTEXT, 1.6e-2, False),
    "mamba2-roles": (MAMBA2, {}, 1.6e-2, True),
    "mamba2-roles-head": (MAMBA2, HEAD, 1.6e-2, True),
    "mamba2-roles-context": (MAMBA2, CONTEXT, 1.6e-2, True),
    "hope-roles": (HOPE, FAST, 1.6e-2, True),
    "hope-roles-head": (HOPE, {**FAST, **HEAD}, 1.6e-2, True),
    "hope-roles-context": (HOPE, {**FAST, **CONTEXT}, 1.6e-2, True),
    "hope": (HOPE, {}, 4e-3, False),
    "hope-head": (HOPE, HEAD, 4e-3, False),
    "hope-roles-unclipped": (HOPE, {**FAST, "self_titans.projection_clip": None}, 1.6e-2, True),
    "mamba2-roles-slots": (MAMBA2, {**HEAD, **SLOTS}, 1.6e-2, True),
    "hope-roles-slots": (HOPE, {**FAST, **HEAD, **SLOTS}, 1.6e-2, True),
    "mamba2-roles-context-slots": (MAMBA2, {**CONTEXT, **SLOTS}, 1.6e-2, True),
    "hope-roles-context-slots": (HOPE, {**FAST, **CONTEXT, **SLOTS}, 1.6e-2, True),
}


class HeadLevelStudy(Study):
    """Hope with uniform rates and with rates by role, and Mamba2, with and without head level."""

    name = "head-level"
    question = "do a head written in context and rates by role lower the loss of Hope and Mamba2"

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Sizes of the study."""

        systems: tuple[str, ...] = tuple(SYSTEMS)
        seeds: tuple[int, ...] = (0, 1, 2)  # of weights, and of the order of documents
        text: Text = field(default_factory=lambda: Text(corpus="standard"))
        # learning rate and seed are replaced in every cell
        train: TrainConfig = field(
            default_factory=lambda: TrainConfig(
                steps=150, batch_size=8, sequence_length=256, evaluate_tokens=98304, save_every=0
            )
        )

    def __init__(self, config: Config | None = None):
        self.config = config or HeadLevelStudy.Config()

    def cells(self, done: Mapping[str, Result]) -> list[Cell]:
        """Every system with the first seed, then with the others."""
        return [self.cell(name, seed) for seed in self.config.seeds for name in self.config.systems]

    def cell(self, name: str, seed: int) -> Cell:
        """One training run."""
        model, changed, rate, by_role = SYSTEMS[name]
        settings = dataclasses.replace(
            self.config.train, learning_rate=rate, rates_by_role=by_role, seed=seed
        )
        overrides = {**MODELS[model], **changed}
        config = {
            "preset": f"{model}-tiny",
            "overrides": {k: list(v) if isinstance(v, tuple) else v for k, v in overrides.items()},
            "text": dataclasses.asdict(self.config.text),
            "train": dataclasses.asdict(settings),
        }
        return Cell(f"{name}-seed{seed}" if seed else name, config, seed)

    def run(self, cell: Cell, *, tell: Tell = silent, device: str = "cpu") -> Result:
        """Train one model; measure it on a fixed choice of held-out documents."""
        text, config = Text(**cell.config["text"]), train_config(cell.config["train"])
        model, metrics = train_on_text(
            cell.config["preset"],
            cell.config["overrides"],
            text,
            config,
            tell=tell,
            device=device,
            held_out_tokens=config.evaluate_tokens,
        )
        if model.head_level is not None:
            metrics["read_strength"] = float(model.head_level.read_strength.detach())
        return Result(
            name=f"{self.name}/{cell.name}",
            config=cell.config,
            metrics=metrics,
            seed=cell.seed,
            corpus=text.prepare().corpus.tag,
            provenance=provenance(device),
        )

    def find(self, done: Mapping[str, Result]) -> Finding:
        """The loss of each system over its seeds, the planned differences, and every run."""
        names = {
            name: {seed: self.cell(name, seed).name for seed in self.config.seeds}
            for name in self.config.systems
        }
        found = {
            name: {seed: done[cell] for seed, cell in by_seed.items() if cell in done}
            for name, by_seed in names.items()
        }
        found = {name: runs for name, runs in found.items() if runs}
        rows = [
            (
                name,
                seed,
                "diverged" if run.metrics["diverged"] else run.metrics["val_loss"],
                *(run.metrics.get(key) for key in list(COLUMNS.values())[1:]),
            )
            for name, runs in found.items()
            for seed, run in runs.items()
        ]
        metrics = {
            name: {
                seed: {k: r.metrics.get(k) for k in COLUMNS.values()} for seed, r in runs.items()
            }
            for name, runs in found.items()
        }
        sections = [
            Section("Method", self._about(), [Table(columns=("system", "is"), rows=FORMS)]),
            Section("Every run", tables=[Table(columns=("system", "seed", *COLUMNS), rows=rows)]),
        ]
        shown = Section("In short", SHOWN, [gap_table(found)] if found else [])
        return Finding({"systems": metrics}, sections, answer(found), shown)

    def _about(self) -> str:
        train = self.config.train
        tokens = train.steps * train.batch_size * train.sequence_length * train.accumulation
        return (
            f"One rate each, from trials with the first seed. The models of figure-lm read "
            f"{tokens:,} tokens of {self.config.text.corpus} in the same order and are measured on "
            f"the same {train.evaluate_tokens:,} held-out tokens. Tokens for each second were "
            "taken on one thread beside other work."
        )


FORMS = (
    ("hope", "at the rate that figure-lm chose for it"),
    ("-head", "the head is a level (`head_period=32`): one more parameter"),
    (
        "-context",
        "keys of the head are made of the last two tokens, and gates strengthen its writes and "
        "reads (`head_keys=context`): 49,410 more parameters",
    ),
    (
        "-slots",
        "only the last 1,024 tokens to follow another are written (`head_slots=1024`, "
        "of 4,096): keys as of -head unless they are of -context",
    ),
    (
        "-roles",
        "a learning rate of 1.6e-2 with the factors that the memories declare (`rates_by_role`; "
        "of Mamba2 a half); Hope writes both levels of the chain at every step",
    ),
    ("-unclipped", "without `self_titans.projection_clip`"),
)
COLUMNS = {
    "held-out loss": "val_loss",
    "last loss": "last_loss",
    "parameters": "num_parameters",
    "strength of the head's read": "read_strength",
    "tokens/s": "tokens_per_second",
}


# pairs for which the first loss minus the second is reported, over common seeds
PAIRS = (
    ("mamba2-roles-head", "mamba2-roles"),
    ("mamba2-roles-context", "mamba2-roles-head"),
    ("hope-roles-head", "hope-roles"),
    ("hope-roles-context", "hope-roles-head"),
    ("hope-roles-context", "mamba2-roles-context"),
    ("hope-roles-context", "mamba2-context"),
    ("hope-roles", "mamba2-roles"),
    ("mamba2-roles-slots", "mamba2-roles-head"),
    ("hope-roles-slots", "hope-roles-head"),
    ("mamba2-roles-context-slots", "mamba2-roles-context"),
    ("hope-roles-context-slots", "hope-roles-context"),
    ("hope-roles-context-slots", "mamba2-roles-context-slots"),
)


def gaps(found: Mapping[str, Mapping[int, Result]]) -> dict[str, Paired]:
    """The planned differences, for pairs that have common seeds."""
    known = {
        f"{one} less {other}": gap(found.get(one, {}), found.get(other, {})) for one, other in PAIRS
    }
    return {name: test for name, test in known.items() if test.difference.every}


def gap_table(found: Mapping[str, Mapping[int, Result]]) -> Table:
    """A table of the planned differences, with the losses they are of."""

    def loss(name: str) -> str:
        runs = found.get(name, {}).values()
        return str(over([run.metrics for run in runs], lambda m: m["val_loss"])) if runs else "-"

    told = differences(gaps(found))
    rows = [
        (one, loss(one), other, loss(other), told.get(f"{one} less {other}", "to do"))
        for one, other in PAIRS
    ]
    return Table(columns=("system", "loss", "compared with", "its loss", "difference"), rows=rows)


def answer(found: Mapping[str, Mapping[int, Result]]) -> str:
    """Which of the planned differences are significant."""
    known = gaps(found)
    if not known:
        return "Open: no two systems that are compared have been run with the same seed yet."
    above, below, alike = grouped(known)
    said = f"{len(known)} of {len(PAIRS)} comparisons have been run"
    if not above and not below:
        seeds = max(test.difference.every for test in known.values())
        if seeds == 1:
            return f"Open: {said}, with one seed each, which is too few for a test."
        return f"Open: {said}, and their losses are not significantly different."
    parts = [
        f"the loss is significantly {word} for {listed(names)}"
        for word, names in (("higher", above), ("lower", below))
        if names
    ]
    rest = ", not for the others" if alike else ""
    return f"In part: {said}; {' and '.join(parts)}{rest}."
