"""Held-out loss against the number of parameters, and the best learning rate at several widths."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nestling.core.error import UserError
from nestling.core.result import Result
from nestling.core.statistics import Interval, interval, paired
from nestling.report import Section, Table
from nestling.train import TrainConfig
from nestling_lab.studies.answers import NOTHING, TESTED, apart, differences, listed
from nestling_lab.studies.lm_report import HOPE, loss_of
from nestling_lab.studies.study import Cell, Finding, Study, Tell, silent
from nestling_lab.studies.text import Text, text_result
from nestling_lab.studies.tuned import Tuned, is_edge, rate_text

MAMBA2, TRANSFORMER = "mamba2", "transformer"
MODELS = (HOPE, MAMBA2, TRANSFORMER)
HEAD = 32  # channels per head, and the step in which widths grow


Runs = Mapping[str, Mapping[int, Result]]  # of one model, by size and seed


@dataclass(frozen=True, kw_only=True)
class Size:
    """One size of all models, with the widths that give them the parameters of Transformer++."""

    hidden_size: int
    layers: int
    cms: int  # units of a level of Hope's CMS
    inner: int  # channels of Mamba-2

    def overrides(self, model: str) -> dict[str, Any]:
        """The overrides of a tiny preset."""
        heads = self.hidden_size // HEAD
        shape = {
            "hidden_size": self.hidden_size,
            "num_hidden_layers": self.layers,
            "num_heads": heads,
        }
        own: dict[str, dict[str, Any]] = {
            # both levels are written at every step of 256 tokens per stream
            HOPE: {"cms.intermediate_size": self.cms, "cms.periods": [128, 256]},
            MAMBA2: {"mamba2.inner_size": self.inner, "mamba2.state_size": 88},
            TRANSFORMER: {
                "attention.num_kv_heads": heads // 2,
                "attention.window": 1024,
                "mlp.intermediate_size": 3 * self.hidden_size,
            },
        }
        return {**shape, **own[model]}


SIZES = {
    "0.36M": Size(hidden_size=64, layers=2, cms=18, inner=64),
    "0.92M": Size(hidden_size=128, layers=2, cms=92, inner=192),
    "2.1M": Size(hidden_size=192, layers=3, cms=168, inner=320),
    "4.2M": Size(hidden_size=256, layers=4, cms=240, inner=448),
    "10.4M": Size(hidden_size=384, layers=5, cms=392, inner=704),
}


class Scaling(Study):
    """Small sizes at every rate with the first seed; all sizes at the best rates, all seeds."""

    name = "scaling"
    question = "how does the held-out loss fall with the number of parameters"

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Sizes of the study."""

        models: tuple[str, ...] = MODELS
        sizes: tuple[str, ...] = tuple(SIZES)  # in rising order
        tuned: int = 3  # smallest sizes with a grid of rates; larger ones take that of the last
        learning_rates: tuple[float, ...] = (4e-3, 8e-3, 1.6e-2, 3.2e-2)
        seeds: tuple[int, ...] = (0, 1, 2)  # of weights and of the order of documents
        text: Text = field(default_factory=lambda: Text(corpus="standard"))
        # seed and learning rate are replaced in every cell
        train: TrainConfig = field(
            default_factory=lambda: TrainConfig(
                steps=75, batch_size=8, sequence_length=256, rates_by_role=True, save_every=0
            )
        )
        held_out_tokens: int = 65536

        def __post_init__(self) -> None:
            if len(self.sizes) < 2:
                raise UserError(f"sizes are {list(self.sizes)}; give two or more for an exponent")
            if not 1 <= self.tuned <= len(self.sizes):
                raise UserError(
                    f"tuned is {self.tuned}; give a number from 1 to that of the sizes, "
                    f"{len(self.sizes)}"
                )

    def __init__(self, config: Config | None = None):
        self.config = config or Scaling.Config()
        small = self.config.sizes[: self.config.tuned]
        self.tuned = Tuned(
            models=[f"{model} {size}" for size in small for model in self.config.models],
            settings=lambda pair: self.config.learning_rates,
            seeds=self.config.seeds,
            cell=lambda pair, rate, seed: self.cell(*pair.split(), rate, seed),
            loss=loss_of,
        )

    def cell(self, model: str, size: str, rate: float, seed: int) -> Cell:
        """One training run."""
        own = self.config
        train = dataclasses.replace(own.train, learning_rate=rate, seed=seed)
        config = {
            "preset": f"{model}-tiny",
            "overrides": SIZES[size].overrides(model),
            "text": dataclasses.asdict(own.text),
            "train": dataclasses.asdict(train),
            "held_out_tokens": own.held_out_tokens,
        }
        return Cell(f"{model}-{size}-lr{rate:g}-seed{seed}", config, seed)

    def rate(self, model: str, size: str, done: Mapping[str, Result]) -> float | None:
        """The rate at a size: the best one there or, where none was tuned, at the largest tuned."""
        last = self.config.sizes[self.config.tuned - 1]
        small = self.config.sizes[: self.config.tuned]
        return self.tuned.best(f"{model} {size if size in small else last}", done)

    def cells(self, done: Mapping[str, Result]) -> list[Cell]:
        """The grids and the other seeds of the small sizes, then the large sizes."""
        large = [
            self.cell(model, size, rate, seed)
            for size in self.config.sizes[self.config.tuned :]
            for seed in self.config.seeds
            for model in self.config.models
            if (rate := self.rate(model, size, done)) is not None
        ]
        return [*self.tuned.cells(done), *large]

    def run(self, cell: Cell, *, tell: Tell = silent, device: str = "cpu") -> Result:
        """Train one model and measure its held-out loss."""
        return text_result(f"{self.name}/{cell.name}", cell.config, tell=tell, device=device)

    def runs(self, model: str, size: str, done: Mapping[str, Result]) -> dict[int, Result]:
        """The finished runs of a model and size at its rate, by seed."""
        rate = self.rate(model, size, done)
        if rate is None:
            return {}
        cells = {seed: self.cell(model, size, rate, seed).name for seed in self.config.seeds}
        return {seed: done[name] for seed, name in cells.items() if name in done}

    def find(self, done: Mapping[str, Result]) -> Finding:
        """The losses by size, the exponents, and the rates by width."""
        runs = {
            model: {
                size: own for size in self.config.sizes if (own := self.runs(model, size, done))
            }
            for model in self.config.models
        }
        runs = {model: own for model, own in runs.items() if own}
        slopes = {model: self.slopes(own) for model, own in runs.items()}
        rows = [
            (
                model,
                *(_losses(own.get(size, {})) for size in self.config.sizes),
                str(interval(slopes[model])) if slopes[model] else "-",
            )
            for model, own in runs.items()
        ]
        columns = ("model", *self.config.sizes, "exponent")
        sections = [Section("Method", self._about())]
        if runs:
            sections += [
                Section("Less the loss of hope", TESTED.format(pairs="seeds"), [_gaps(runs)]),
                Section("Rates", RATES, [self._rates(done)]),
                Section("Sizes", tables=[_sizes(runs)]),
            ]
        metrics = {
            model: {
                "exponents": slopes[model],
                "losses": {
                    size: {str(seed): one.metrics.get("val_loss") for seed, one in found.items()}
                    for size, found in own.items()
                },
            }
            for model, own in runs.items()
        }
        shown = Section("In short", SHOWN, [Table(columns=columns, rows=rows)] if rows else [])
        return Finding(metrics, sections, self.answer(runs, slopes), shown)

    def slopes(self, runs: Runs) -> list[float]:
        """The exponent b of loss = a N^-b for every seed that all sizes have; empty before that."""
        if set(runs) != set(self.config.sizes):
            return []
        seeds = set.intersection(*(set(own) for own in runs.values()))
        points = {
            seed: [
                (own[seed].metrics["num_parameters"], loss_of(own[seed])) for own in runs.values()
            ]
            for seed in sorted(seeds)
        }
        return [exponent(own) for own in points.values() if all(math.isfinite(x) for _, x in own)]

    def answer(self, runs: Mapping[str, Runs], slopes: Mapping[str, Sequence[float]]) -> str:
        """The exponents, and whether that of Hope differs from the others'."""
        if not runs:
            return NOTHING
        own = self.config
        whole = [
            model
            for model in own.models
            if all(len(runs.get(model, {}).get(s, {})) == len(own.seeds) for s in own.sizes)
        ]
        if len(whole) < len(own.models):
            return f"Open: {len(whole)} of {len(own.models)} models have every size and seed."
        known = {model: interval(found) for model, found in slopes.items() if found}
        told = [f"{known[m]} ({m})" if m in known else f"none ({m}: diverged)" for m in own.models]
        head = f"The loss falls as a power of the parameters with exponents {listed(told)}"
        return f"{head}{_verdict(known)}."

    def _rates(self, done: Mapping[str, Result]) -> Table:
        own = self.config
        rows = []
        for model in own.models:
            for size in own.sizes[: own.tuned]:
                cells = {
                    rate: self.cell(model, size, rate, own.seeds[0]).name
                    for rate in own.learning_rates
                }
                losses = [
                    f"{loss_of(done[name]):.3f}" if name in done else "-" for name in cells.values()
                ]
                best = self.rate(model, size, done)
                edge = is_edge(best, own.learning_rates)
                width = SIZES[size].hidden_size
                rows.append((model, width, *losses, rate_text(best, edge)))
        heads = (f"{rate:g}" for rate in own.learning_rates)
        return Table(columns=("model", "width", *heads, "best (* edge of grid)"), rows=rows)

    def _about(self) -> str:
        own = self.config
        tokens = own.train.steps * own.train.batch_size * own.train.sequence_length
        last = own.sizes[own.tuned - 1]
        return (
            f"Every model reads the same {tokens:,} tokens of {own.text.corpus} in the same order, "
            f"in {own.train.steps} steps, whatever its size, and is measured on the same "
            f"{own.held_out_tokens:,} held-out tokens, in nats a token. Parameters of a size are "
            "equal within 1 %, embeddings included (the head is tied). All models train with the "
            "learning-rate factors that their memories declare (`rates_by_role`). The "
            f"{own.tuned} smallest sizes are trained at every rate with seed {own.seeds[0]}, and "
            "the best by held-out loss goes on with the other seeds; larger ones take the best "
            f"rate of {last}. The exponent is the slope of the logarithm of the loss over that of "
            "the parameters, by least squares for each seed; no irreducible loss is subtracted, "
            "so it holds for these tokens and sizes only."
        )


SHOWN = "Held-out loss by number of parameters, and the exponent b of a N^-b. " + (
    "Means with 95 % intervals over seeds (Student's t)."
)
RATES = "Held-out loss of the first seed at every rate of the grid."


def exponent(points: Sequence[tuple[int, float]]) -> float:
    """The b of loss = a N^-b by least squares in logarithms, for (N, loss).

    >>> round(exponent([(10**6, 4.0), (10**8, 2.0)]), 4)
    0.1505
    """
    xs, ys = ([math.log(value) for value in values] for values in zip(*points, strict=True))
    x, y = (sum(values) / len(values) for values in (xs, ys))
    over = sum((a - x) * (b - y) for a, b in zip(xs, ys, strict=True))
    return -over / sum((a - x) ** 2 for a in xs)


def _verdict(known: Mapping[str, Interval]) -> str:
    if HOPE not in known or not all(math.isfinite(one.half) for one in known.values()):
        return ""
    others = [model for model in known if model != HOPE]
    differ = [model for model in others if apart(known[model], known[HOPE])]
    same = [model for model in others if model not in differ]
    parts = [f"is apart from that of {listed(differ)}"] if differ else []
    parts += [f"overlaps with that of {listed(same)}"] if same else []
    return f"; Hope's interval {' and '.join(parts)}" if parts else ""


def _losses(runs: Mapping[int, Result]) -> str:
    finite = [loss for run in runs.values() if math.isfinite(loss := loss_of(run))]
    lost = len(runs) - len(finite)
    return (str(interval(finite)) if finite else "-") + (f" ({lost} diverged)" if lost else "")


def _gaps(runs: Mapping[str, Runs]) -> Table:
    """The loss of each model less that of Hope, by size."""
    found = {}
    for model, own in runs.items():
        for size in own:
            both = sorted(own[size].keys() & runs.get(HOPE, {}).get(size, {}).keys())
            if model != HOPE and both:
                losses = ([loss_of(runs[m][size][seed]) for seed in both] for m in (model, HOPE))
                found[f"{model} {size}"] = paired(*losses)
    return Table(columns=("model and size", "difference"), rows=list(differences(found).items()))


def _sizes(runs: Mapping[str, Runs]) -> Table:
    rows = []
    for model, own in runs.items():
        for size, found in own.items():
            shape = SIZES[size]
            one = next(iter(found.values())).metrics
            rows.append((model, size, shape.hidden_size, shape.layers, one["num_parameters"]))
    return Table(columns=("model", "size", "width", "layers", "parameters"), rows=rows)
