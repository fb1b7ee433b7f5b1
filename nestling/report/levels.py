"""Shows a nested system as text and as an SVG drawing."""

import html
import math
import textwrap
from collections.abc import Iterable, Sequence

from nestling.core.level import Level
from nestling.core.nested import order

WIDTH, GAP, MARGIN, LINE = 236, 12, 20, 15  # pixels: of a box, between boxes, around, of text
LABEL = 150  # pixels, of the column that names the frequencies
COLUMNS = 5  # boxes side by side
LETTERS = 37  # per line in a box
# fast (orange) to slow (blue), light enough for black text
FAST, SLOW = (255, 224, 178), (197, 218, 245)


def clock(level: Level) -> str:
    """When a level is written, in words.

    >>> clock(Level(name="a", period=16)), clock(Level(name="b", period=0))
    ('every 16 tokens', 'at every read')
    """
    if level.period == 0:
        return "at every read"
    if math.isinf(level.period):
        return "never"
    return "every token" if level.period == 1 else f"every {level.period:,} tokens"


def frequency(level: Level) -> str:
    """The frequency of a level, in writes per token.

    >>> frequency(Level(name="a", period=16)), frequency(Level(name="b", period=0))
    ('1/16', 'infinite')
    """
    if level.period == 0:
        return "infinite"
    if math.isinf(level.period):
        return "0"
    return "1" if level.period == 1 else f"1/{level.period}"


def rows(level: Level) -> list[tuple[str, str]]:
    """The non-empty properties of a box."""
    size = f"{level.parameters:,}" + (" per sequence" if level.per_sequence else "")
    told = [
        ("numbers", size if level.parameters else ""),
        ("objective", level.objective),
        ("rule", level.rule),
        ("context", level.context),
        *(("transfer", str(move)) for move in level.transfer),
        ("after", ", ".join(level.depends_on)),
    ]
    return [(name, text) for name, text in told if text]


def levels_text(levels: Iterable[Level]) -> str:
    """The system as text for a terminal, fast to slow."""
    lines = []
    for number, boxes in enumerate(order(levels), start=1):
        first = boxes[0]
        lines.append(f"level {number}: frequency {frequency(first)} ({clock(first)})")
        for box in boxes:
            lines.append(f"  {box.name}")
            lines += [f"    {name:<10} {text}" for name, text in rows(box)]
        lines.append("")
    return "\n".join(lines).rstrip()


def levels_svg(levels: Iterable[Level], title: str) -> str:
    """The system as an SVG drawing: a band of boxes per level, fast at the top."""
    bands = order(levels)
    top = MARGIN + 2 * LINE
    parts = [_text(MARGIN, MARGIN + LINE, title, size=17, bold=True)]
    for number, boxes in enumerate(bands):
        share = number / max(1, len(bands) - 1)
        colour = tuple(round(a + (b - a) * share) for a, b in zip(FAST, SLOW, strict=True))
        drawn, height = _band(boxes, top, f"rgb{colour}")
        parts.append(_label(number + 1, boxes[0], top))
        parts += drawn
        top += height + 2 * GAP
        if number + 1 < len(bands):
            line = top - 1.5 * GAP
            parts.append(f'<path d="M{MARGIN} {line} H{_width() - MARGIN}" stroke="#ccc"/>')
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_width()} {top}" '
        f'width="{_width()}" height="{top}" font-family="system-ui, sans-serif" role="img">'
    )
    named = f"<title>{html.escape(title)}</title>"
    ground = f'<rect width="{_width()}" height="{top}" fill="white"/>'
    return "\n".join([head, named, ground, *parts, "</svg>"])


def _width() -> int:
    return 2 * MARGIN + LABEL + COLUMNS * WIDTH + (COLUMNS - 1) * GAP


def _label(number: int, level: Level, top: float | int) -> str:
    return "\n".join(
        [
            _text(MARGIN, top + LINE, f"level {number}", size=14, bold=True),
            _text(MARGIN, top + 2.2 * LINE, clock(level), size=12),
            _text(MARGIN, top + 3.3 * LINE, f"frequency {frequency(level)}", size=12),
        ]
    )


def _band(boxes: Sequence[Level], top: float | int, colour: str) -> tuple[list[str], int]:
    """The drawn boxes of a level, COLUMNS to a row, and the height they take."""
    parts, height = [], 0
    for start in range(0, len(boxes), COLUMNS):
        row = boxes[start : start + COLUMNS]
        texts = [_wrapped(box) for box in row]
        tall = LINE * (max(map(len, texts)) + 2)
        for column, (box, lines) in enumerate(zip(row, texts, strict=True)):
            left = MARGIN + LABEL + column * (WIDTH + GAP)
            parts.append(
                f'<rect x="{left}" y="{top + height}" width="{WIDTH}" height="{tall}" rx="7" '
                f'fill="{colour}" stroke="#666"/>'
            )
            parts.append(_text(left + 9, top + height + 1.3 * LINE, box.name, size=13, bold=True))
            for index, (text, heavy) in enumerate(lines):
                place = top + height + LINE * (index + 2.4)
                parts.append(_text(left + 9, place, text, size=11, bold=heavy))
        height += tall + GAP
    return parts, height - GAP


def _wrapped(box: Level) -> list[tuple[str, bool]]:
    """The lines of a box, each with whether it is bold."""
    lines = []
    for name, text in rows(box):
        lines.append((name, True))
        lines += [(line, False) for line in textwrap.wrap(text, LETTERS)]
    return lines


def _text(x: float | int, y: float | int, text: str, *, size: int, bold: bool = False) -> str:
    weight = ' font-weight="600"' if bold else ""
    return f'<text x="{x:g}" y="{y:g}" font-size="{size}"{weight}>{html.escape(text)}</text>'
