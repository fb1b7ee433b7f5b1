"""The valley of Figure 4, whose curvature changes along the way: momentum against its variants."""

import dataclasses
import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nestling.core.result import Result, provenance
from nestling.core.statistics import interval, paired
from nestling.report import Curve, Section, Table, lines
from nestling_lab.studies.answers import NOTHING, grouped, listed
from nestling_lab.studies.optimizers.entrants import ENTRANTS, clear_all, step_all
from nestling_lab.studies.study import Cell, Finding, Study, Tell, silent
from nestling_lab.studies.tuned import least

CONTENDERS = ("gd", "momentum", "adamw", "delta-scalar", "delta-row", "m3")
REFERENCE = "momentum"
STEPS = (
    "Mean and 95 % interval over the starts; a walk that never arrives counts as one of the most "
    "steps tried."
)


class Curvature(Study):
    """Steps to the bottom of the valley, for a wide grid of rates and several starts."""

    name = "optim-curvature"
    question = "does delta momentum get faster through a valley whose curvature changes (Fig 4)"

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Sizes of the study."""

        contenders: tuple[str, ...] = CONTENDERS
        stiffness: float = 8.0  # k
        amplitude: float = 0.6  # a
        frequency: float = 6.0  # omega
        start: tuple[float, float] = (-3.5, 2.0)  # from the paper; others are drawn around it
        starts: int = 10
        spread: float = 0.5  # of the drawn starts
        rates: tuple[float, ...] = tuple(float(f"{10 ** (e / 4):.3g}") for e in range(-16, 5))
        bottom: float = 1e-4  # psi that counts as the bottom
        limit: int = 2000  # steps, at most; more count as never

    def __init__(self, config: Config | None = None):
        self.config = config or Curvature.Config()

    def cell(self, contender: str) -> Cell:
        """One optimizer: every rate from every start."""
        config = dataclasses.asdict(self.config) | {"optimizer": contender}
        del config["contenders"]
        return Cell(contender, config, 0)

    def cells(self, done: Mapping[str, Result]) -> list[Cell]:
        """One cell per optimizer."""
        return [self.cell(contender) for contender in self.config.contenders]

    def run(self, cell: Cell, *, tell: Tell = silent, device: str = "cpu") -> Result:
        """Run from every start at every rate."""
        config = Curvature.Config(
            **{k: v for k, v in cell.config.items() if k != "optimizer"}, contenders=()
        )
        places = starts(config)
        steps = {}
        for number, rate in enumerate(config.rates):
            walks = [walk(config, cell.config["optimizer"], rate, place) for place in places]
            steps[f"{rate:g}"] = walks
            tell(number + 1, len(config.rates), walks[0] or math.nan)
        return Result(
            name=f"{self.name}/{cell.name}",
            config=cell.config,
            metrics={"steps": steps},
            seed=cell.seed,
            provenance=provenance(device),
        )

    def find(self, done: Mapping[str, Result]) -> Finding:
        """The steps at each best rate, at that of the reference, and over all rates."""
        tables = {
            c: done[self.cell(c).name].metrics["steps"]
            for c in self.config.contenders
            if self.cell(c).name in done
        }
        shared = best_rate(tables[REFERENCE], self.config.limit) if REFERENCE in tables else None
        metrics: dict[str, Any] = {}
        rows, curves = [], {}
        for name, steps in tables.items():
            best = best_rate(steps, self.config.limit)
            arrived = [w is not None for walks in steps.values() for w in walks]
            metrics[name] = {
                "best_rate": float(best),
                "steps_at_best": self._record(steps[best]),
                "steps_at_shared": None if shared is None else self._record(steps[shared]),
                "share_of_rates_and_starts_that_arrive": sum(arrived) / len(arrived),
            }
            rows.append(
                (
                    ENTRANTS[name].title,
                    best,
                    self._spelt(steps[best]),
                    "-" if shared is None else self._spelt(steps[shared]),
                    f"{100 * sum(arrived) / len(arrived):.0f} %",
                )
            )
            medians = [(float(r), statistics.median(self._counted(w))) for r, w in steps.items()]
            curves[ENTRANTS[name].title] = Curve([r for r, _ in medians], [m for _, m in medians])
        columns = (
            "optimizer",
            "best rate",
            "steps at its best rate",
            f"steps at momentum's best rate ({shared})",
            "runs that arrive",
        )
        shown = Section("In short", STEPS, [Table(columns=columns, rows=rows)] if rows else [])
        sections = [Section("Method", self._about())]
        if curves:
            figure = lines(
                curves, x_label="learning rate", y_label="steps (median)", log_x=True, log_y=True
            )
            sections.append(Section("Over the rates", figures=[figure]))
        figures = {"shared_rate": shared, "optimizers": metrics}
        return Finding(figures, sections, self._answer(tables), shown)

    def _answer(self, tables: Mapping[str, Mapping[str, list[int | None]]]) -> str:
        """Delta momentum compared with momentum, each at its best rate, from the same starts."""
        if REFERENCE not in tables:
            return NOTHING
        best = {
            name: self._counted(steps[best_rate(steps, self.config.limit)])
            for name, steps in tables.items()
        }
        deltas = [name for name in tables if name.startswith("delta")]
        own = f"at its best rate momentum takes {interval(best[REFERENCE]).mean:.0f} steps"
        if not deltas:
            return f"Open: {own}; delta momentum has not been run yet."
        more, fewer, _ = grouped({n: paired(best[n], best[REFERENCE]) for n in deltas})
        word = "significantly fewer" if fewer else "significantly more" if more else "no fewer"
        each = [
            f"{interval(best[n]).mean:.0f} ({ENTRANTS[n].title})" for n in fewer or more or deltas
        ]
        return f"{'Yes' if fewer else 'No'}: {own}; {word}: {listed(each)}."

    def _counted(self, walks: list[int | None]) -> list[float]:
        return [float(self.config.limit if w is None else w) for w in walks]

    def _record(self, walks: list[int | None]) -> dict[str, Any]:
        return interval(self._counted(walks)).record() | {"never": walks.count(None)}

    def _spelt(self, walks: list[int | None]) -> str:
        never = walks.count(None)
        text = str(interval(self._counted(walks)))
        return f"{text} ({never} of {len(walks)} never)" if never else text

    def _about(self) -> str:
        c = self.config
        return (
            f"psi(r, theta) = r^2 + k (r - theta + a sin(omega r))^2 with k = {c.stiffness:g}, "
            f"a = {c.amplitude:g}, omega = {c.frequency:g} (the paper prints none of the three), "
            f"from ({c.start[0]:g}, {c.start[1]:g}) and {c.starts - 1} starts drawn within "
            f"{c.spread:g} of it, at {len(c.rates)} rates from {c.rates[0]:g} to {c.rates[-1]:g}. "
            f"A walk arrives when psi is below {c.bottom:g}; it counts {c.limit:,} steps if it "
            "never does. The best rate is that of the fewest steps."
        )


class Valley(nn.Module):
    """A point (r, theta) as one column of numbers; ``depth`` is psi there."""

    def __init__(self, config: Curvature.Config, place: Tensor):
        super().__init__()
        self.config = config
        self.place = nn.Parameter(place.clone())

    def depth(self) -> Tensor:
        """psi(r, theta), Eq 53."""
        c = self.config
        r, theta = self.place.unbind()
        return r**2 + c.stiffness * (r - theta + c.amplitude * torch.sin(c.frequency * r)) ** 2


def starts(config: Curvature.Config) -> list[Tensor]:
    """The start of the paper, and others around it."""
    generator = torch.Generator().manual_seed(0)
    first = torch.tensor(config.start, dtype=torch.float64)
    noise = torch.rand(config.starts, 2, generator=generator, dtype=torch.float64) * 2 - 1
    noise[0] = 0
    return list(first + config.spread * noise)


def walk(config: Curvature.Config, optimizer: str, rate: float, place: Tensor) -> int | None:
    """The number of steps until psi is below the bottom; None if it never is."""
    valley = Valley(config, place)
    optimizers = ENTRANTS[optimizer].build(valley, rate)
    for step in range(config.limit):
        depth = valley.depth()
        if depth.item() < config.bottom:
            return step
        if not math.isfinite(depth.item()) or depth.item() > 1e6:
            return None
        clear_all(optimizers)
        depth.backward()
        step_all(optimizers)
    return None


def best_rate(steps: Mapping[str, list[int | None]], limit: int) -> str:
    """The rate with the fewest steps on average; a run that never arrives counts as the limit."""
    sums = [sum(limit if w is None else w for w in walks) for walks in steps.values()]
    return list(steps)[least(sums)]
