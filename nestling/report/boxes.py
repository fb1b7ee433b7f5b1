"""Draws a nested system as boxes in boxes, with the slowest level outside."""

import html
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from nestling.core.level import Level
from nestling.core.nested import order
from nestling.report.levels import FAST, SLOW, clock


class Box(NamedTuple):
    """A box: something that is written, with its clock."""

    name: str
    clock: str  # when it is written, in words
    written: str  # how often it has been written, in words


def written(period: int | float, tokens: int) -> str:
    """How often a level of this period is written while ``tokens`` are read, in words.

    >>> written(32, 100), written(64, 100), written(128, 100), written(math.inf, 100)
    ('3 times', 'once', 'not yet', 'never')
    """
    if math.isinf(period):
        return "never"
    if period == 0:
        return "grows with every token"
    return times(tokens // int(period))


def times(count: int) -> str:
    """A number of writes in words."""
    return {0: "not yet", 1: "once"}.get(count, f"{count:,} times")


def boxes_of(levels: Iterable[Level], tokens: int) -> list[list[Box]]:
    """The bands of a nested system, slow to fast, after ``tokens`` tokens of a stream."""
    return [
        [Box(one.name, clock(one), written(one.period, tokens)) for one in band]
        for band in reversed(order(levels))
    ]


def nested_html(bands: Sequence[Sequence[Box]]) -> str:
    """HTML for bands, slow to fast, as boxes in boxes; all text is escaped."""
    opened = []
    for number, band in enumerate(bands):
        share = number / max(1, len(bands) - 1)
        colour = ",".join(str(round(a + (b - a) * share)) for a, b in zip(SLOW, FAST, strict=True))
        rows = "".join(
            f"<li><b>{html.escape(box.name)}</b> {html.escape(box.clock)}; written: "
            f"<b>{html.escape(box.written)}</b></li>"
            for box in band
        )
        opened.append(f'<div class="level" style="--level:rgb({colour})"><ul>{rows}</ul>')
    return "".join(opened) + "</div>" * len(opened)
