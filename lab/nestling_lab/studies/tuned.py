"""Tunes contenders in the same way: all settings with one seed, the best one with all seeds."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from nestling.core.result import Result
from nestling_lab.studies.study import Cell

Setting = TypeVar("Setting")  # a learning rate, or the number of a setting


def least(losses: Sequence[float | int]) -> int:
    """The index of the lowest loss; non-finite losses are worse than all others.

    >>> least([2.0, math.nan, 1.0, -math.inf])
    2
    """
    ranked = [loss if math.isfinite(loss) else math.inf for loss in losses]
    return ranked.index(min(ranked))


def is_edge(value: float | None, grid: Sequence[float]) -> bool:
    """Whether a value is the smallest or largest of a grid, so a better one may lie beyond."""
    return len(grid) > 1 and value in (min(grid), max(grid))


def rate_text(rate: float | None, edge: bool) -> str:
    """A chosen rate, with a star if it is at the edge of its grid.

    >>> rate_text(0.003, True), rate_text(None, False)
    ('0.003 *', '-')
    """
    return "-" if rate is None else f"{rate:g}" + " *" * edge


@dataclass(frozen=True, kw_only=True)
class Tuned(Generic[Setting]):
    """The cells of a study with tuning.

    ``settings`` returns the settings of a model, ``cell`` the cell of a model, setting and seed,
    and ``loss`` the figure to choose the setting by (lower is better).
    """

    models: Sequence[str]
    settings: Callable[[str], Sequence[Setting]]
    seeds: Sequence[int]
    cell: Callable[[str, Setting, int], Cell]
    loss: Callable[[Result], float]

    def grid(self, model: str) -> list[Cell]:
        """The first stage: every setting with the first seed."""
        return [self.cell(model, setting, self.seeds[0]) for setting in self.settings(model)]

    def best(self, model: str, done: Mapping[str, Result]) -> Setting | None:
        """The setting with the lowest loss; None until the grid is finished."""
        cells = self.grid(model)
        if any(cell.name not in done for cell in cells):
            return None
        return self.settings(model)[least([self.loss(done[cell.name]) for cell in cells])]

    def runs(self, model: str, done: Mapping[str, Result]) -> list[Cell]:
        """The cells of all seeds with the best setting; empty until the grid is finished."""
        setting = self.best(model, done)
        return [] if setting is None else [self.cell(model, setting, seed) for seed in self.seeds]

    def cells(self, done: Mapping[str, Result]) -> list[Cell]:
        """The grids and, for each finished grid, the other seeds with the best setting."""
        grids = [cell for model in self.models for cell in self.grid(model)]
        return grids + [cell for model in self.models for cell in self.runs(model, done)[1:]]

    def best_runs(self, model: str, done: Mapping[str, Result]) -> dict[int, Result]:
        """The finished runs of a model with the best setting, by seed; empty until it is known."""
        return {cell.seed: done[cell.name] for cell in self.runs(model, done) if cell.name in done}
