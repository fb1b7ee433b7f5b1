"""The figures of pages, each drawn from plain numbers as in Results."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy

from nestling.core.statistics import interval
from nestling.report.figure import Curve, grid, lines

Points = Mapping[float, float] | Mapping[int, float]  # of one run: x -> measured value


def band(runs: Sequence[Points]) -> Curve:
    """The mean of runs at each x that all of them have, with its 95 % interval as a band.

    There is no point where the value of a run is not finite.

    >>> band([{1: 2.0, 2: 4.0, 3: 3.0}, {1: 2.0, 3: math.inf}])
    Curve(x=[1], y=[2.0], low=[2.0], high=[2.0])
    """
    finite = [{x for x, y in run.items() if math.isfinite(y)} for run in runs]
    xs = sorted(set.intersection(*finite)) if runs else []
    found = [interval([run[x] for run in runs]) for x in xs]
    curve = Curve(xs, [one.mean for one in found])
    if len(runs) < 2:
        return curve
    return curve._replace(low=[one.low for one in found], high=[one.high for one in found])


def bands(models: Mapping[str, Sequence[Points]]) -> dict[str, Curve]:
    """``band`` for every model with any points; the name says how many runs diverged."""
    found = {}
    for name, runs in models.items():
        lost = sum(not all(map(math.isfinite, run.values())) for run in runs)
        found[f"{name} ({lost} of {len(runs)} diverged)" if lost else name] = band(runs)
    return {name: curve for name, curve in found.items() if curve.x}


def loss_curves(models: Mapping[str, Sequence[Points]]) -> str:
    """Loss against tokens trained on; runs of a model are its seeds."""
    return lines(bands(models), x_label="tokens trained on", y_label="loss (nats a token)")


def perplexity_by_position(models: Mapping[str, Sequence[Sequence[Mapping[str, Any]]]]) -> str:
    """Perplexity by the tokens of the document read so far (the paper's Figure 10).

    A run is a list of ranges with ``start``, ``end`` and ``loss``, as returned by an evaluation;
    the loss is averaged over runs.
    """
    curves = {}
    for name, curve in bands(
        {
            name: [{(s["start"] + s["end"]) / 2: s["loss"] for s in run} for run in runs]
            for name, runs in models.items()
        }
    ).items():
        ends = [None if end is None else _exp(end) for end in (curve.low, curve.high)]
        curves[name] = Curve(curve.x, _exp(curve.y), *ends)
    label = "tokens of the document read so far"
    return lines(curves, x_label=label, y_label="perplexity", log_x=True, log_y=True)


def _exp(losses: Sequence[float]) -> list[float]:
    """e to the losses; infinite, and not drawn, if too large for a float."""
    with numpy.errstate(over="ignore"):
        return numpy.exp(losses).tolist()


def accuracy_by_length(models: Mapping[str, Mapping[int, float | None]]) -> str:
    """A heat map with a row per model and a column per text length (tokens)."""
    lengths = sorted({length for found in models.values() for length in found})
    values = [[found.get(length) for length in lengths] for found in models.values()]
    columns = [f"{length:,}" for length in lengths]
    return grid(
        values, rows=list(models), columns=columns, x_label="tokens of the text", y_label=""
    )


def forgetting_matrix(table: Sequence[Sequence[float]], stages: Sequence[str]) -> str:
    """A heat map of a stage task: a row per stage learned last, a column per stage asked about."""
    values = [[*row, *[None] * (len(stages) - len(row))] for row in table]
    return grid(
        values, rows=list(stages), columns=list(stages), x_label="asked about", y_label="after"
    )


def accuracy_by_frequency(models: Mapping[str, Sequence[Points]]) -> str:
    """Accuracy against the period of a memory: tokens between two writes."""
    label = "tokens between two writes"
    return lines(bands(models), x_label=label, y_label="accuracy", log_x=True, marks=True)


def cost_by_length(models: Mapping[str, Sequence[Points]], *, y_label: str) -> str:
    """Speed or memory against the length of the text, on logarithmic axes."""
    label = "tokens of the text"
    return lines(bands(models), x_label=label, y_label=y_label, log_x=True, log_y=True, marks=True)
