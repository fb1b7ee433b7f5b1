"""The value of the writes: Hope against three models of its size, on the same tokens."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from nestling.core.result import Result
from nestling.core.statistics import Paired
from nestling.report import Section
from nestling.train import TrainConfig
from nestling.train.evaluate import perplexity
from nestling_lab.studies.answers import NOTHING, beside
from nestling_lab.studies.diverged import over
from nestling_lab.studies.lm_report import (
    HOPE,
    SHOWN,
    by_position,
    compared,
    every_run,
    loss_of,
    notes,
    text_tables,
)
from nestling_lab.studies.study import Cell, Finding, Study, Tell, silent
from nestling_lab.studies.text import Text, text_result
from nestling_lab.studies.tuned import Tuned, is_edge


class Contender(NamedTuple):
    """A model under comparison."""

    title: str
    preset: str
    overrides: dict[str, Any]


# half the width and depth of the tiny presets, so that twenty runs take an hour on two cores; the
# widths of the feed-forward networks are chosen for equal parameters within 1 %
SIZE = {"hidden_size": 128, "num_hidden_layers": 2, "num_heads": 4}
HOPE_SIZE = {**SIZE, "cms.intermediate_size": 128}
# documents have up to tens of thousands of tokens; attention sees the length of four training rows
TRANSFORMER_SIZE = {**SIZE, "mlp.intermediate_size": 452, "attention.window": 1024}
CONTENDERS = {
    HOPE: Contender("Hope", "hope-tiny", HOPE_SIZE),
    "hope-frozen": Contender(
        "Hope trained with writes off", "hope-tiny", {**HOPE_SIZE, "writes": False}
    ),
    "transformer": Contender("Transformer++", "transformer-tiny", TRANSFORMER_SIZE),
    "transformer-conv": Contender(
        "Transformer++ with short convolutions",
        "transformer-tiny",
        {**TRANSFORMER_SIZE, "short_convolution": True},
    ),
}


TITLES = {name: contender.title for name, contender in CONTENDERS.items()}


class DemoGap(Study):
    """Every model at every learning rate with the first seed, then its best rate with all seeds."""

    name = "demo-gap"
    question = "does Hope predict text better than without its writes, and than Transformer++"

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Sizes of the study."""

        seeds: tuple[int, ...] = (0, 1, 2)  # of weights and of the order of documents
        # the same grid for every model
        learning_rates: tuple[float, ...] = (1e-3, 3e-3, 6e-3, 1.2e-2, 2.4e-2)
        text: Text = field(default_factory=lambda: Text(corpus="stdlib-code"))
        # seed and learning rate are replaced in every cell
        train: TrainConfig = field(
            default_factory=lambda: TrainConfig(
                steps=300,
                batch_size=8,
                sequence_length=256,
                evaluate_tokens=65536,
                save_every=0,
                rates_by_role=False,
            )
        )

    def __init__(self, config: Config | None = None):
        self.config = config or DemoGap.Config()
        self.tuned = Tuned(
            models=tuple(CONTENDERS),
            settings=lambda model: self.config.learning_rates,
            seeds=self.config.seeds,
            cell=self.cell,
            loss=loss_of,
        )

    def cell(self, model: str, rate: float, seed: int) -> Cell:
        """One training run."""
        contender = CONTENDERS[model]
        train = dataclasses.replace(self.config.train, learning_rate=rate, seed=seed)
        config = {
            "model": model,
            "preset": contender.preset,
            "overrides": contender.overrides,
            "text": dataclasses.asdict(self.config.text),
            "train": dataclasses.asdict(train),
        }
        return Cell(f"{model}-lr{rate:g}-seed{seed}", config, seed)

    def cells(self, done: Mapping[str, Result]) -> list[Cell]:
        """The grid, and for each finished grid the other seeds at the best rate."""
        return self.tuned.cells(done)

    def run(self, cell: Cell, *, tell: Tell = silent, device: str = "cpu") -> Result:
        """Train and measure one model."""
        return text_result(f"{self.name}/{cell.name}", cell.config, tell=tell, device=device)

    def find(self, done: Mapping[str, Result]) -> Finding:
        """Means with intervals, differences to Hope paired by seed, and curves."""
        chosen = {model: self.tuned.best_runs(model, done) for model in CONTENDERS}
        chosen = {model: runs for model, runs in chosen.items() if runs}
        against = compared(chosen)
        metrics = {
            model: self._figures(model, runs, against.get(model), done)
            for model, runs in chosen.items()
        }
        results, sizes = text_tables(metrics, against, TITLES)
        sections = [
            Section("Method", self._about()),
            *([by_position(chosen, TITLES)] if metrics else []),
            Section("Sizes and rates", notes(metrics), [sizes] if metrics else []),
            Section("Every run", tables=[every_run(self.cells(done), done)]),
        ]
        figures = {"models": metrics, "learning_rates": self._rates(done)}
        shown = Section("In short", SHOWN, [results] if metrics else [])
        return Finding(figures, sections, answer(metrics, against), shown)

    def _figures(
        self,
        model: str,
        runs: dict[int, Result],
        against: Paired | None,
        done: Mapping[str, Result],
    ) -> dict[str, Any]:
        rate = self.tuned.best(model, done)
        each = [result.metrics for result in runs.values()]
        speeds = over(each, lambda run: run["tokens_per_second"])
        return {
            "learning_rate": rate,
            "rate_at_edge_of_grid": is_edge(rate, self.config.learning_rates),
            "seeds": sorted(runs),
            "num_parameters": each[0]["num_parameters"],
            "num_non_embedding": each[0]["num_non_embedding"],
            "val_perplexity": over(each, lambda run: perplexity(run["val_loss"])).record(),
            "val_loss": over(each, lambda run: run["val_loss"]).record(),
            "loss_above_hope": None if against is None else against.record(),
            "tokens_per_second": speeds.record()["mean"],
        }

    def _about(self) -> str:
        text, train = self.config.text, self.config.train
        tokens = train.steps * train.batch_size * train.sequence_length * train.accumulation
        return (
            f"Each model reads the same tokens of {text.corpus} in the same order: {train.steps:,} "
            f"steps of {train.batch_size} x {train.sequence_length} positions, {tokens:,} in all. "
            "With writes off only the output memory is read, so the initial states of the other "
            "memories count among the parameters but are not used. Every model carries its memory "
            "along a document from row to row: Transformer++ sees the last "
            f"{TRANSFORMER_SIZE['attention.window']:,} tokens of it.\n\n"
            f"Learning rates {', '.join(f'{rate:g}' for rate in self.config.learning_rates)} are "
            f"tried with seed {self.config.seeds[0]}; the best of each model by held-out loss goes "
            f"on with seeds {', '.join(map(str, self.config.seeds[1:])) or 'none'}. The rate is "
            "chosen on the text that is reported, for every model alike; every figure is over all "
            "of the held-out text. Intervals are 95 %, by Student's t over the seeds."
        )

    def _rates(self, done: Mapping[str, Result]) -> dict[str, dict[str, float | None]]:
        return {
            model: {
                f"{cell.config['train']['learning_rate']:g}": finite(loss_of(done[cell.name]))
                for cell in self.tuned.grid(model)
                if cell.name in done
            }
            for model in CONTENDERS
        }


def answer(metrics: Mapping[str, Any], against: Mapping[str, Paired]) -> str:
    """How the loss of Hope compares with that of the others."""
    if HOPE not in metrics:
        return NOTHING if not metrics else "Hope has not finished its grid of learning rates yet."
    return f"Hope's held-out loss is {beside({TITLES[m]: test for m, test in against.items()})}."


def finite(value: float | None) -> float | None:
    """None for non-finite values, which JSON cannot represent."""
    return value if value is not None and math.isfinite(value) else None
