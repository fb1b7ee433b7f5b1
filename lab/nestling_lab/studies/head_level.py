"""What a head that is written in context is worth, and rates by role: a screen of one seed."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from nestling.core.result import Result, provenance
from nestling.report import Section, Table
from nestling.train import TrainConfig, train_config
from nestling_lab.studies.figure_lm import MODELS
from nestling_lab.studies.study import Cell, Finding, Study, Tell, silent
from nestling_lab.studies.text import Text, train_on_text

HEAD = {"head_period": 32}
CONTEXT = {**HEAD, "head_keys": "context"}
# both levels of the chain are written at every step of 256 tokens a stream
FAST = {"cms.periods": (128, 256)}
HOPE, MAMBA2 = "hope", "mamba2"
# system -> the model of figure-lm, what is changed in it, the rate, and whether it goes by role
SYSTEMS: dict[str, tuple[str, dict[str, Any], float, bool]] = {
    "mamba2": (MAMBA2, {}, 1.6e-2, False),
    "mamba2-head": (MAMBA2, HEAD, 1.6e-2, False),
    "mamba2-context": (MAMBA2, CONTEXT, 1.6e-2, False),
    "hope-roles": (HOPE, FAST, 1.6e-2, True),
    "hope-roles-head": (HOPE, {**FAST, **HEAD}, 1.6e-2, True),
    "hope-roles-context": (HOPE, {**FAST, **CONTEXT}, 1.6e-2, True),
    "hope": (HOPE, {}, 4e-3, False),
    "hope-head": (HOPE, HEAD, 4e-3, False),
    "hope-roles-unclipped": (HOPE, {**FAST, "self_titans.projection_clip": None}, 1.6e-2, True),
}


class HeadLevelStudy(Study):
    """Hope as it is and with rates by role, and Mamba2, each without and with the head level."""

    name = "head-level"
    question = (
        "what a head written in context is worth to Hope and Mamba2, and rates by role to Hope"
    )

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Sizes of the study."""

        systems: tuple[str, ...] = tuple(SYSTEMS)
        text: Text = field(default_factory=lambda: Text(corpus="standard"))
        # the learning rate in it is replaced, cell by cell
        train: TrainConfig = field(
            default_factory=lambda: TrainConfig(
                steps=150, batch_size=8, sequence_length=256, evaluate_tokens=98304, save_every=0
            )
        )

    def __init__(self, config: Config | None = None):
        self.config = config or HeadLevelStudy.Config()

    def cells(self, done: Mapping[str, Result]) -> list[Cell]:
        """Every system once."""
        return [self.cell(name) for name in self.config.systems]

    def cell(self, name: str) -> Cell:
        """One training run."""
        model, changed, rate, by_role = SYSTEMS[name]
        settings = dataclasses.replace(self.config.train, learning_rate=rate, rates_by_role=by_role)
        overrides = {**MODELS[model], **changed}
        config = {
            "preset": f"{model}-tiny",
            "overrides": {k: list(v) if isinstance(v, tuple) else v for k, v in overrides.items()},
            "text": dataclasses.asdict(self.config.text),
            "train": dataclasses.asdict(settings),
        }
        return Cell(name, config, settings.seed)

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
        """A row a system."""
        found = {name: done[name].metrics for name in self.config.systems if name in done}
        rows = [
            (
                name,
                "diverged" if figures["diverged"] else "trained",
                *(figures.get(key) for key in COLUMNS.values()),
            )
            for name, figures in found.items()
        ]
        table = Table(columns=("system", "run", *COLUMNS), rows=rows)
        metrics = {n: {k: f.get(k) for k in COLUMNS.values()} for n, f in found.items()}
        sections = [
            Section("What was asked", self._about()),
            Section("Every run", _compared(found), [table]),
        ]
        return Finding({"systems": metrics}, sections)

    def _about(self) -> str:
        train = self.config.train
        tokens = train.steps * train.batch_size * train.sequence_length * train.accumulation
        return (
            f"A screen, not a comparison: one seed, one rate each. The models of figure-lm read "
            f"{tokens:,} tokens of {self.config.text.corpus} in the same order and are measured on "
            f"the same {train.evaluate_tokens:,} held-out tokens. `-head`: the head is a level "
            "(`head_period=32`); it adds one parameter. `-context`: its keys are made of the last "
            "two tokens as well, and gates strengthen its writes and reads (`head_keys=context`); "
            "it adds 49,410. `-roles`: a learning rate of 1.6e-2 with the factors that the "
            "memories declare (`rates_by_role`), both levels of the chain written at every step; "
            "`hope` itself has the rate that figure-lm chose for it. `-unclipped`: without "
            "`self_titans.projection_clip`. Tokens for each second were taken on one thread beside "
            "other work."
        )


COLUMNS = {
    "held-out loss": "val_loss",
    "last loss": "last_loss",
    "parameters": "num_parameters",
    "strength of the head's read": "read_strength",
    "tokens/s": "tokens_per_second",
}


def _compared(found: Mapping[str, Mapping[str, Any]]) -> str:
    """What the level gains each model, in words."""
    gains = [
        f"{name}{form} {found[name]['val_loss'] - found[f'{name}{form}']['val_loss']:.3f}"
        for name in ("mamba2", "hope", "hope-roles")
        for form in ("-head", "-context")
        if all(n in found and not found[n]["diverged"] for n in (name, f"{name}{form}"))
    ]
    return f"Gain by the head level, nats a token: {', '.join(gains)}." if gains else ""
