"""A nested system as boxes in boxes: the slowest level holds all that is written more often."""

import html
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from nestling.core.level import Level
from nestling.core.nested import order
from nestling.report.levels import FAST, SLOW, clock


class Box(NamedTuple):
    """Something that is written."""

    name: str
    clock: str  # when, in words
    written: str  # how often it has been, in words


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
    """The bands of a nested system, slow to fast, once a stream has had ``tokens`` tokens."""
    return [
        [Box(one.name, clock(one), written(one.period, tokens)) for one in band]
        for band in reversed(order(levels))
    ]


def nested_html(bands: Sequence[Sequence[Box]]) -> str:
    """Bands, slow to fast, as boxes in boxes; every text is escaped."""
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
