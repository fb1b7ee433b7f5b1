"""Short runs of every system on the same real text: does each of them train?"""

import dataclasses
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from nestling.core.result import Result
from nestling.models.presets import FAMILIES
from nestling.report import Section, Table
from nestling.train import TrainConfig
from nestling.train.evaluate import perplexity
from nestling_lab.studies.answers import NOTHING, listed
from nestling_lab.studies.study import Cell, Finding, Study, Tell, silent
from nestling_lab.studies.text import Text, text_result


class LadderSmoke(Study):
    """One short run of every family at one size; not a comparison, with a single rate and seed."""

    name = "ladder-smoke"
    question = "does every system train on real text with finite losses"

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Sizes of the study."""

        families: tuple[str, ...] = tuple(FAMILIES)  # each as the preset of that size
        size: str = "tiny"
        text: Text = field(default_factory=lambda: Text(corpus="stdlib"))
        train: TrainConfig = field(
            default_factory=lambda: TrainConfig(
                steps=100,
                batch_size=4,
                sequence_length=256,
                learning_rate=3e-3,
                save_every=0,
                rates_by_role=False,
            )
        )

    def __init__(self, config: Config | None = None):
        self.config = config or LadderSmoke.Config()

    def cell(self, family: str) -> Cell:
        """One training run."""
        config = {
            "preset": f"{family}-{self.config.size}",
            "overrides": {},
            "text": dataclasses.asdict(self.config.text),
            "train": dataclasses.asdict(self.config.train),
        }
        return Cell(family, config, self.config.train.seed)

    def cells(self, done: Mapping[str, Result]) -> list[Cell]:
        """One cell per family."""
        return [self.cell(family) for family in self.config.families]

    def run(self, cell: Cell, *, tell: Tell = silent, device: str = "cpu") -> Result:
        """Train and measure one model."""
        return text_result(f"{self.name}/{cell.name}", cell.config, tell=tell, device=device)

    def find(self, done: Mapping[str, Result]) -> Finding:
        """One row per family, in the order of the presets."""
        found = {family: done[family].metrics for family in self.config.families if family in done}
        metrics = {
            "diverged": [family for family, figures in found.items() if figures["diverged"]],
            "families": {
                family: {key: figures.get(key) for key in KEPT}
                | {"val_perplexity": perplexity_of(figures)}
                for family, figures in found.items()
            },
        }
        rows = [
            (
                family,
                "diverged" if figures["diverged"] else perplexity_of(figures),
                *(figures.get(key) for key in COLUMNS.values()),
            )
            for family, figures in found.items()
        ]
        table = Table(columns=("system", "held-out perplexity", *COLUMNS), rows=rows)
        return Finding(
            metrics,
            [Section("Method", self._about()), Section("Every run", tables=[table])],
            answer(found, len(self.config.families)),
            Section("In short", tables=[spread(found)] if rows else []),
        )

    def _about(self) -> str:
        text, train = self.config.text, self.config.train
        tokens = train.steps * train.batch_size * train.sequence_length * train.accumulation
        return (
            f"Every family at size {self.config.size} reads the same tokens of {text.corpus} in "
            f"the same order: {train.steps:,} steps of {train.batch_size} x "
            f"{train.sequence_length} positions, {tokens:,} in all, learning rate "
            f"{train.learning_rate:g}, seed {train.seed}. One rate and one seed: the perplexities "
            "show that each system learns, not which of them is best. The rate suits some better "
            "than others, and the tokens are few. Tokens for each second were taken on one thread "
            "beside other work; `nestling bench train` compares speed."
        )


COLUMNS = {
    "held-out loss": "val_loss",
    "first loss": "first_loss",
    "last loss": "last_loss",
    "parameters": "num_parameters",
    "tokens/s": "tokens_per_second",
}


def spread(found: Mapping[str, Mapping[str, Any]]) -> Table:
    """The lowest, median and highest loss of the systems that did not diverge."""
    sound = [figures for figures in found.values() if not figures["diverged"]]
    rows = []
    for title in ("first loss", "last loss", "held-out loss"):
        losses = [figures[COLUMNS[title]] for figures in sound]
        ends = (min(losses), statistics.median(losses), max(losses)) if losses else (None,) * 3
        rows.append((title, *ends))
    return Table(columns=(f"of {len(sound)} systems", "lowest", "median", "highest"), rows=rows)


KEPT = (*COLUMNS.values(), "num_non_embedding", "diverged")


def answer(found: Mapping[str, Mapping[str, Any]], families: int) -> str:
    """How many systems train."""
    if not found:
        return NOTHING
    lost = [family for family, figures in found.items() if figures["diverged"]]
    left = families - len(found)
    rest = f"; {left} have not been run yet." if left else "."
    if lost:
        return f"No: of {len(found)} systems {len(lost)} diverged ({listed(lost)}){rest}"
    return f"{'So far' if left else 'Yes'}: all {len(found)} systems reach a finite loss{rest}"


def perplexity_of(figures: Mapping[str, Any]) -> float | None:
    """The perplexity of a run; None if it diverged."""
    return None if figures["diverged"] else perplexity(figures["val_loss"])
