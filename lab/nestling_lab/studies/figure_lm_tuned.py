"""Systems tuned alike, static and with a head written in context: held-out loss."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from nestling.core.result import Result
from nestling.core.statistics import Paired
from nestling.report import Section, Table
from nestling.train import TrainConfig
from nestling.train.evaluate import perplexity
from nestling_lab.studies.answers import NOTHING, differences, grouped, listed
from nestling_lab.studies.diverged import over
from nestling_lab.studies.figure_lm import MODELS as SIZED
from nestling_lab.studies.lm_report import HOPE, SHOWN, by_position, compared, gap, loss_of
from nestling_lab.studies.study import Cell, Finding, Study, Tell, silent
from nestling_lab.studies.text import Text, text_result
from nestling_lab.studies.tuned import Tuned, is_edge

# both levels of the CMS are written at every step of 256 tokens per stream
FAST = {"cms.periods": [128, 256]}
MODELS: dict[str, dict[str, Any]] = {
    name: {**options, **(FAST if "cms.intermediate_size" in options else {})}
    for name, options in SIZED.items()
}
HEAD = {"head_period": 32}
UNIFORM = ("mamba2",)  # the factor it declares is that of all layers, which is tuned for each


class Setting(NamedTuple):
    """What is tuned for each system."""

    rate: float  # of embedding and head
    layers: float  # fraction of it for the layers

    def __str__(self) -> str:
        return f"{self.rate:g}x{self.layers:g}"


Runs = Mapping[str, Mapping[int, Result]]  # by system and seed


class FigureLmTuned(Study):
    """Short runs choose the rates of every system; long ones measure it, static and with a head."""

    name = "figure-lm-tuned"
    question = "does Hope predict text better than others with rates by role and a head in context"

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Sizes of the study."""

        models: tuple[str, ...] = tuple(MODELS)
        heads: tuple[str, ...] = (HOPE, "mamba2", "samba", "transformer")  # also with a head level
        seeds: tuple[int, ...] = (0, 1, 2)  # of weights and of the order of documents
        # Hope, and the static systems that three seeds do not tell from it, have more seeds
        close: tuple[str, ...] = (
            HOPE, "mamba2", "titans-lmm", "ttt-mlp", "samba", "gated-delta-net"
        )  # fmt: skip
        more_seeds: tuple[int, ...] = (3, 4)
        learning_rates: tuple[float, ...] = (2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2)
        layer_rates: tuple[float, ...] = (1.0, 0.5)
        text: Text = field(default_factory=lambda: Text(corpus="standard"))
        # seed and rates are replaced in every cell
        train: TrainConfig = field(
            default_factory=lambda: TrainConfig(
                steps=300, batch_size=8, sequence_length=256, save_every=0
            )
        )
        tuning_steps: int = 75
        tuning_tokens: int = 32768  # held out, read after tuning runs
        held_out_tokens: int = 98304  # read after the others

    def __init__(self, config: Config | None = None):
        self.config = config or FigureLmTuned.Config()
        self.tuned = Tuned(
            models=self.config.models,
            settings=lambda model: self.settings,
            seeds=self.config.seeds[:1],
            cell=self.tuning,
            loss=loss_of,
        )

    @property
    def settings(self) -> list[Setting]:
        """The grid of every system."""
        own = self.config
        return [Setting(rate, part) for rate in own.learning_rates for part in own.layer_rates]

    def tuning(self, model: str, setting: Setting, seed: int = 0) -> Cell:
        """A short run."""
        own = self.config
        name = f"tuning-{model}-{setting}"
        return self._cell(name, model, setting, seed, own.tuning_steps, own.tuning_tokens)

    def measured(self, model: str, setting: Setting, seed: int, head: bool) -> Cell:
        """A long run, static or with a head level."""
        own = self.config
        name = f"{model}{'-head' if head else ''}-{setting}-seed{seed}"
        cell = self._cell(name, model, setting, seed, own.train.steps, own.held_out_tokens)
        if head:
            cell.config["overrides"] |= HEAD
        return cell

    def _cell(
        self, name: str, model: str, setting: Setting, seed: int, steps: int, tokens: int
    ) -> Cell:
        train = dataclasses.replace(
            self.config.train,
            steps=steps,
            learning_rate=setting.rate,
            layer_rate=setting.layers,
            rates_by_role=model not in UNIFORM,
            seed=seed,
        )
        config = {
            "preset": f"{model}-tiny",
            "overrides": dict(MODELS[model]),
            "text": dataclasses.asdict(self.config.text),
            "train": dataclasses.asdict(train),
            "held_out_tokens": tokens,
        }
        return Cell(name, config, seed)

    def best(self, model: str, done: Mapping[str, Result]) -> Setting | None:
        """The setting with the lowest loss; None until all short runs are finished.

        None, too, if all of them diverged.
        """
        found = self.tuned.best(model, done)
        lost = found is None or math.isinf(loss_of(done[self.tuning(model, found).name]))
        return None if lost else found

    def cells(self, done: Mapping[str, Result]) -> list[Cell]:
        """The short runs; then, seed by seed, the long ones of systems whose rates are known."""
        own = self.config
        known = {m: setting for m in own.models if (setting := self.best(m, done)) is not None}
        return self.tuned.cells(done) + [
            self.measured(model, setting, seed, head)
            for seed in (*own.seeds, *own.more_seeds)
            for head in (False, True)
            for model, setting in known.items()
            if seed in self.seeds(model, head)
        ]

    def seeds(self, model: str, head: bool) -> tuple[int, ...]:
        """The seeds of the long runs of a system; () for one without."""
        own = self.config
        if head:
            return own.seeds if model in own.heads else ()
        return (*own.seeds, *own.more_seeds) if model in own.close else own.seeds

    def run(self, cell: Cell, *, tell: Tell = silent, device: str = "cpu") -> Result:
        """Train one model and measure its held-out loss."""
        return text_result(f"{self.name}/{cell.name}", cell.config, tell=tell, device=device)

    def runs(self, done: Mapping[str, Result], head: bool) -> dict[str, dict[int, Result]]:
        """The finished long runs, by system and seed."""
        found = {}
        for model in self.config.models:
            setting = self.best(model, done)
            if setting is not None:
                seeds = self.seeds(model, head)
                cells = {seed: self.measured(model, setting, seed, head).name for seed in seeds}
                found[model] = {seed: done[name] for seed, name in cells.items() if name in done}
        return {model: own for model, own in found.items() if own}

    def find(self, done: Mapping[str, Result]) -> Finding:
        """The losses, static and with a head level, less Hope's; what a head gains; the rates."""
        static, headed = self.runs(done, False), self.runs(done, True)
        gains = {m: gap(own, static.get(m, {})) for m, own in headed.items()}
        gains = {model: test for model, test in gains.items() if test.difference.every}
        against = compared(static), compared(headed)
        tables = [_losses(static, against[0])] if static else []
        if headed:
            tables.append(_losses(headed, against[1], gains))
        sections = [
            Section("Method", self._about()),
            *([by_position({**static, **_named(headed)}, {})] if static else []),
            Section("Rates", RATES, [self._rates(done)]),
        ]
        if static:
            sections.append(Section("Sizes and speed", tables=[_sizes(static, headed)]))
        metrics = {
            "static": {model: _figures(own) for model, own in static.items()},
            "head": {model: _figures(own) for model, own in headed.items()},
            "settings": {m: str(best) for m in self.config.models if (best := self.best(m, done))},
        }
        shown = Section("In short", SHOWN, tables)
        return Finding(metrics, sections, self.answer(static, headed, against), shown)

    def answer(
        self, static: Runs, headed: Runs, against: tuple[Mapping[str, Paired], Mapping[str, Paired]]
    ) -> str:
        """Where Hope is among the others, static and with a head."""
        if not static:
            return NOTHING
        whole = [
            len(own) == len(self.seeds(model, runs is headed))
            for runs in (static, headed)
            for model, own in runs.items()
        ]
        of = len(self.config.models) + len(self.config.heads)
        if sum(whole) < of or HOPE not in static:
            return f"Open: {sum(whole)} of {of} systems have every seed."
        told = [f"Static, {_place(static, against[0])}"]
        if HOPE in headed:
            told.append(f"with a head written in context {_place(headed, against[1])}")
        return f"{'; '.join(told)}."

    def _rates(self, done: Mapping[str, Result]) -> Table:
        rows = []
        for model in self.config.models:
            cells = self.tuned.grid(model)
            losses = [f"{loss_of(done[c.name]):.3f}" if c.name in done else "-" for c in cells]
            best = self.best(model, done)
            edge = best is not None and is_edge(best.rate, self.config.learning_rates)
            rows.append((model, *losses, f"{best or '-'}{' *' * edge}"))
        return Table(columns=("model", *map(str, self.settings), "best"), rows=rows)

    def _about(self) -> str:
        own, train = self.config, self.config.train
        each = train.batch_size * train.sequence_length
        return (
            f"The models of figure-lm, equal in parameters within 2 %, read the same tokens of "
            f"{own.text.corpus} in the same order. Every system has the same freedom: "
            f"{len(self.settings)} pairs of a learning rate and the fraction of it for the layers "
            f"(the embedding, which is the head, too, learns at the full rate), each tried for "
            f"{own.tuning_steps} steps ({own.tuning_steps * each:,} tokens) with seed "
            f"{own.seeds[0]}; on top come the factors that a memory declares for some of its "
            "parameters (Hope, Hope-Attention and Titans do). The best pair by the loss of "
            f"{own.tuning_tokens:,} held-out tokens goes on: {train.steps} steps, "
            f"{train.steps * each:,} tokens, {len(own.seeds)} seeds, measured on "
            f"{own.held_out_tokens:,} "
            "held-out tokens, in nats a token; the former are among them, for every system alike. "
            f"Static systems that these did not tell from Hope, and Hope, have "
            f"{len(own.more_seeds)} more. "
            "With a head (`head_period=32`, one more parameter) the same rates are used. Hope and "
            "Hope-Attention write both levels of the CMS at every step. These periods and the "
            "factors were chosen in earlier trials of Hope on the same text with seed "
            f"{own.seeds[0]}; of the other systems only Mamba2 had such a trial, of layers at half "
            "the rate, which is among the pairs of all here. Each column of differences is "
            "corrected on its own."
        )


RATES = (
    "Loss after the short runs, by learning rate x fraction for the layers. * the rate is at the "
    "edge of the grid; of the fractions there are only two."
)


def _place(runs: Runs, against: Mapping[str, Paired]) -> str:
    """The system with the lowest loss, and which are significantly below and above Hope."""
    best = min(runs, key=lambda model: _mean(runs[model]))
    lost = [model for model, own in runs.items() if not math.isfinite(_mean(own))]
    if HOPE in lost:
        return f"Hope diverged and {best} has the lowest loss of {len(runs)}"
    kept = {model: test for model, test in against.items() if model not in lost}
    above, below, alike = grouped(kept)
    parts = [
        f"{word} {listed(names)}"
        for word, names in (
            ("significantly below", above),
            ("significantly above", below),
            ("not significantly different from", alike),
            ("below the diverged", lost),
        )
        if names
    ]
    place = ", ".join(parts)
    if best == HOPE:
        return f"Hope has the lowest loss of {len(runs)}, {place}"
    return f"{best} has the lowest loss of {len(runs)} and Hope's is {place}"


def _mean(runs: Mapping[int, Result]) -> float:
    return sum(map(loss_of, runs.values())) / len(runs)


def _named(headed: Runs) -> dict[str, Mapping[int, Result]]:
    return {f"{model}-head": own for model, own in headed.items()}


def _figures(runs: Mapping[int, Result]) -> dict[str, Any]:
    return {
        "val_loss": {str(seed): run.metrics.get("val_loss") for seed, run in runs.items()},
        "num_parameters": next(iter(runs.values())).metrics["num_parameters"],
    }


def _losses(
    runs: Runs, against: Mapping[str, Paired], gains: Mapping[str, Paired] | None = None
) -> Table:
    """Losses, lowest first; with ``gains``, systems with a head and what it changes."""
    told, changes = differences(against), differences(gains or {})
    found = {m: over([r.metrics for r in own.values()], _loss) for m, own in runs.items()}
    ranked = sorted(runs, key=lambda model: _mean(runs[model]))
    rows = [
        (
            model if gains is None else f"{model}-head",
            str(over([r.metrics for r in runs[model].values()], _perplexity)),
            str(found[model]),
            told.get(model, "-"),
            *([] if gains is None else [changes.get(model, "-")]),
        )
        for model in ranked
    ]
    last = [] if gains is None else ["less static"]
    return Table(columns=("model", "perplexity", "loss", "less Hope's", *last), rows=rows)


def _loss(metrics: Mapping[str, Any]) -> float:
    return metrics["val_loss"]


def _perplexity(metrics: Mapping[str, Any]) -> float:
    return perplexity(metrics["val_loss"])


def _sizes(static: Runs, headed: Runs) -> Table:
    rows = []
    for name, own in {**static, **_named(headed)}.items():
        speed = [r.metrics["tokens_per_second"] for r in own.values() if not r.metrics["diverged"]]
        count = next(iter(own.values())).metrics["num_parameters"]
        rows.append((name, count, len(own), f"{sum(speed) / len(speed):,.0f}" if speed else "-"))
    return Table(columns=("model", "parameters", "seeds", "tokens/s"), rows=rows)
