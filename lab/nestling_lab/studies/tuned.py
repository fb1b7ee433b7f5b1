"""Models tuned alike: the same grid for each with one seed, then its best at all seeds."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from nestling.core.result import Result
from nestling_lab.studies.study import Cell


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """The cells of such a study, and which of them count.

    ``cell`` makes a cell of model, learning rate and seed; ``loss`` is what the rate is chosen by,
    lower is better, infinite for a run that diverged.
    """

    models: Sequence[str]
    rates: Sequence[float]
    seeds: Sequence[int]
    cell: Callable[[str, float, int], Cell]
    loss: Callable[[Result], float]

    def grid(self, model: str) -> list[Cell]:
        """The first stage: every rate with the first seed."""
        return [self.cell(model, rate, self.seeds[0]) for rate in self.rates]

    def best(self, model: str, done: Mapping[str, Result]) -> float | None:
        """The rate of lowest loss; None while the grid is not finished."""
        cells = self.grid(model)
        if any(cell.name not in done for cell in cells):
            return None
        losses = [self.loss(done[cell.name]) for cell in cells]
        return self.rates[losses.index(min(losses))]

    def at_edge(self, model: str, done: Mapping[str, Result]) -> bool:
        """Whether the best rate is the least or the greatest of several: one may lie beyond."""
        best = self.best(model, done)
        return len(self.rates) > 1 and best in (min(self.rates), max(self.rates))

    def cells(self, done: Mapping[str, Result]) -> list[Cell]:
        """The grids, and of each model whose grid is finished the other seeds at its best rate."""
        cells = [cell for model in self.models for cell in self.grid(model)]
        for model in self.models:
            rate = self.best(model, done)
            if rate is not None:
                cells += [self.cell(model, rate, seed) for seed in self.seeds[1:]]
        return cells

    def chosen(self, model: str, done: Mapping[str, Result]) -> dict[int, Result]:
        """Finished runs of a model at its best rate, by seed; none while its grid is unfinished."""
        rate = self.best(model, done)
        if rate is None:
            return {}
        cells = {seed: self.cell(model, rate, seed).name for seed in self.seeds}
        return {seed: done[name] for seed, name in cells.items() if name in done}
