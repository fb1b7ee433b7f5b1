"""Tunes one optimizer on one problem: the learning rate on one seed, the figures on others."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from nestling.core.statistics import Interval, interval, paired
from nestling.report import Table
from nestling_lab.studies.answers import ALIKE
from nestling_lab.studies.optimizers.entrants import ENTRANTS
from nestling_lab.studies.tuned import is_edge, least, rate_text

WORDS = {"wins": "lower", "loses": "higher", "ties": ALIKE}
COMPARED = (
    "Mean and 95 % interval over seeds. Against: its {loss} is significantly lower or higher, or "
    "not significantly different (n.s.), by the 95 % interval of the difference, paired by seed. "
    "* at the edge of the grid: a better rate may lie beyond."
)
Figures = dict[str, float]
Attempt = Callable[[float, int], Figures]  # (learning rate, seed) -> figures; lower is better


def tuned(
    attempt: Attempt, *, rates: Sequence[float], seeds: Sequence[int], chosen_by: str
) -> dict[str, Any]:
    """Try every rate with the first seed, then the best one with the other seeds.

    ``chosen_by`` is the name of the figure to minimise; non-finite values count as infinite. All
    runs are recorded, and a best rate at the edge of the grid is marked.
    """
    first, *others = seeds
    grid = {f"{rate:g}": attempt(rate, first) for rate in rates}
    best = rates[least([grid[f"{rate:g}"][chosen_by] for rate in rates])]
    runs = {str(first): grid[f"{best:g}"]}
    for seed in others:
        runs[str(seed)] = attempt(best, seed)
    return {
        "rate": best,
        "rate_at_edge_of_grid": is_edge(best, rates),
        "grid": {rate: finite(figures) for rate, figures in grid.items()},
        "runs": {seed: finite(figures) for seed, figures in runs.items()},
    }


def finite(figures: Mapping[str, float]) -> dict[str, float | None]:
    """None for non-finite values, which JSON cannot represent."""
    return {name: value if math.isfinite(value) else None for name, value in figures.items()}


def over_seeds(record: Mapping[str, Any], figure: str) -> list[float | None]:
    """A figure of the chosen rate for each seed; None for a run with any non-finite figure."""
    return [None if None in run.values() else run[figure] for run in record["runs"].values()]


def interval_of(values: Sequence[float | None]) -> Interval:
    """The mean with its 95 % interval; None is a run that diverged."""
    return interval([math.nan if value is None else value for value in values])


def interval_text(values: Sequence[float | None]) -> str:
    """``interval_of`` as text."""
    return str(interval_of(values))


def against_each(
    found: Mapping[str, Mapping[str, Any]], others: Sequence[str], figure: str
) -> dict[str, dict[str, Any]]:
    """``against`` for every optimizer and each of some others."""
    return {
        name: {
            o: against(found[name], found[o], figure) for o in others if o in found and o != name
        }
        for name in found
    }


def table_of(
    found: Mapping[str, Mapping[str, Any]],
    verdicts: Mapping[str, Mapping[str, Any]],
    figures: Mapping[str, str],
    others: Sequence[str],
) -> Table:
    """A row per optimizer: its rate, its figures (by column), and how it compares with others."""
    rows = [
        (
            ENTRANTS[name].title,
            rate_text(record["rate"], record["rate_at_edge_of_grid"]),
            *(interval_text(over_seeds(record, figure)) for figure in figures.values()),
            *(word_of(verdicts.get(name, {}).get(o)) for o in others),
        )
        for name, record in found.items()
    ]
    heads = (f"against {ENTRANTS[o].title}" for o in others)
    return Table(columns=("optimizer", "rate", *figures, *heads), rows=rows)


def word_of(found: Mapping[str, Any] | None) -> str:
    """The outcome of a comparison in a table."""
    return WORDS.get(found["verdict"], "-") if found else "-"


def place_of(
    records: Mapping[str, Mapping[str, Any]],
    verdicts: Mapping[str, Mapping[str, Any]],
    name: str,
    figure: str,
) -> str:
    """How the mean of an optimizer compares with others, by ``against``; "" if it has none."""
    if name not in records:
        return ""
    words = {word: f"significantly {word} than" for word in ("lower", "higher")}
    words |= {ALIKE: "not significantly different from", "-": "for want of seeds not compared with"}
    parts = [
        f"{words[word_of(found)]} {ENTRANTS[old].title}'s ({_mean(records[old], figure)})"
        for old, found in verdicts.get(name, {}).items()
    ]
    return f"({_mean(records[name], figure)}) is {' and '.join(parts) or 'not compared yet'}"


def _mean(record: Mapping[str, Any], figure: str) -> str:
    return f"{interval_of(over_seeds(record, figure)).mean:.4g}"


def against(
    ours: Mapping[str, Any], theirs: Mapping[str, Any], figure: str
) -> dict[str, float | str | None]:
    """The difference of a figure, paired by seed, with a verdict.

    ``verdict`` is "wins" if the 95 % interval is below zero (smaller is better), "loses" if it is
    above, otherwise "ties"; None without an interval. An optimizer that diverges with more seeds
    than the other loses in any case.
    """
    shared = sorted(ours["runs"].keys() & theirs["runs"].keys())
    each = [[record["runs"][seed][figure] for seed in shared] for record in (ours, theirs)]
    own, other = ([math.nan if value is None else value for value in values] for values in each)
    found = paired(own, other)
    record = {k: v for k, v in found.record().items() if k in ("mean", "half_width_95")}
    if found.worse != found.better:
        return record | {"verdict": "loses" if found.worse > found.better else "wins"}
    gap = found.difference
    if gap.count < 2:
        return {"mean": None, "half_width_95": None, "verdict": None}
    return record | {"verdict": "wins" if gap.high < 0 else "loses" if gap.low > 0 else "ties"}
