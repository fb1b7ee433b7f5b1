"""Draws figures as SVG text, for pages."""

import io
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# the palette of Okabe and Ito, which colour-blind readers can tell apart
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
STYLES = ("-", "--", "-.", ":")


class Curve(NamedTuple):
    """Points of a line; ``low`` and ``high`` bound a band around it."""

    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None


def lines(
    curves: Mapping[str, Curve],
    *,
    x_label: str,
    y_label: str,
    log_x: bool = False,
    log_y: bool = False,
    marks: bool = False,
) -> str:
    """One line per name, with a legend; the same input gives the same SVG, byte for byte.

    ``marks`` draws a dot at every point, for curves with few points.
    """
    figure, axes = _canvas(x_label, y_label)
    for i, (name, curve) in enumerate(curves.items()):
        colour, style = COLOURS[i % len(COLOURS)], STYLES[i % len(STYLES)]
        dots = "o" if marks else ""
        # the line has a gap at infinite values
        y = [value if math.isfinite(value) else math.nan for value in curve.y]
        axes.plot(curve.x, y, dots + style, color=colour, label=name, linewidth=1.8, ms=4)
        if curve.low is not None and curve.high is not None:
            axes.fill_between(curve.x, curve.low, curve.high, color=colour, alpha=0.15, linewidth=0)
    if log_x:
        axes.set_xscale("log", base=2)
    if log_y and any(0 < y < math.inf for curve in curves.values() for y in curve.y):
        axes.set_yscale("log")
    if curves:
        axes.legend(frameon=False)
    return _svg(figure)


def bars(values: Mapping[str, tuple[float, float]], *, x_label: str) -> str:
    """One horizontal bar per name: (value, half width of its interval; 0 for none)."""
    figure, axes = _canvas(x_label, "")
    names = list(values)[::-1]
    middles = [values[name][0] for name in names]
    halves = [values[name][1] for name in names]
    axes.barh(names, middles, xerr=halves, color=COLOURS[0], alpha=0.8, capsize=3)
    return _svg(figure)


def grid(
    values: Sequence[Sequence[float | None]],
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    x_label: str,
    y_label: str,
    low: float | int = 0.0,
    high: float | int = 1.0,
) -> str:
    """A heat map with numbers: one row of ``values`` per name, None for unknown values."""
    figure, axes = _canvas(x_label, y_label, height=1.6 + 0.36 * len(rows))
    axes.grid(visible=False)
    shown = [[math.nan if value is None else value for value in row] for row in values]
    axes.imshow(shown, cmap="cividis", vmin=low, vmax=high, aspect="auto")
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(rows)), rows)
    middle = (low + high) / 2
    for y, row in enumerate(values):
        for x, value in enumerate(row):
            if value is not None:
                known = math.isfinite(value)
                colour = "white" if known and value <= middle else "black"
                text = f"{value:.2f}" if known else "diverged"
                axes.text(x, y, text, ha="center", va="center", color=colour, fontsize=9)
    return _svg(figure)


def _canvas(x_label: str, y_label: str, height: float = 3.6) -> "tuple[Figure, Axes]":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, height), layout="constrained")
    axes = figure.add_subplot()
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _svg(figure: "Figure") -> str:
    import matplotlib

    buffer = io.StringIO()
    # a fixed salt and no date, so that the same figure gives the same text
    with matplotlib.rc_context({"svg.hashsalt": "nestling", "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
