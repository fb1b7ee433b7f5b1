"""Tables, as plain text, Markdown, LaTeX and HTML."""

import html
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any


def cell(value: Any) -> str:
    """Format a value: four significant digits, thousands separated; None is "-".

    >>> [cell(value) for value in (1234567, 0.123456, 12345.6, None, "a", float("nan"), 2.0)]
    ['1,234,567', '0.1235', '12,346', '-', 'a', 'diverged', '2.000']
    """
    if value is None:
        return "-"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    if not math.isfinite(value):
        return "diverged"
    if value != 0 and abs(value) < 1e-3:
        return f"{value:.3g}"
    digits = 3 - math.floor(math.log10(abs(value))) if value else 3
    return f"{value:,.{max(digits, 0)}f}"


def escaped(text: str) -> str:
    r"""Escape a text for LaTeX.

    >>> escaped("50 % of a_b & 1 +/- 2")
    '50 \\% of a\\_b \\& 1 $\\pm$ 2'
    """
    special = {c: f"\\{c}" for c in "&%$#_{}"} | {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": "$<$",
        ">": "$>$",
    }
    return "".join(special.get(c, c) for c in text).replace("+/-", r"$\pm$")


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows under named columns; columns of numbers are right-aligned.

    >>> print(Table(columns=("model", "loss"), rows=[("hope", 1.5), ("other", 12)]).text())
    model   loss
    -----  -----
    hope   1.500
    other     12
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    title: str = ""

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(
                    f"a row has {len(row)} cells for {len(self.columns)} columns: {row}"
                )

    def _cells(self) -> list[list[str]]:
        return [[cell(value) for value in row] for row in self.rows]

    def _right(self, column: int) -> bool:
        values = [row[column] for row in self.rows if row[column] is not None]
        return bool(values) and all(isinstance(value, int | float) for value in values)

    def text(self) -> str:
        """Columns padded with spaces, for a terminal."""
        cells = self._cells()
        widths = [
            max(len(row[i]) for row in [list(self.columns), *cells])
            for i in range(len(self.columns))
        ]

        def line(row: Iterable[str]) -> str:
            padded = (
                text.rjust(width) if self._right(i) else text.ljust(width)
                for i, (text, width) in enumerate(zip(row, widths, strict=True))
            )
            return "  ".join(padded).rstrip()

        body = [line(self.columns), line("-" * width for width in widths), *map(line, cells)]
        return "\n".join([self.title, "", *body] if self.title else body)

    def markdown(self) -> str:
        """A table in GitHub-flavoured Markdown."""

        def line(row: Iterable[str]) -> str:
            return "| " + " | ".join(text.replace("|", "\\|") for text in row) + " |"

        rule = ("---:" if self._right(i) else "---" for i in range(len(self.columns)))
        body = [line(self.columns), line(rule), *map(line, self._cells())]
        return "\n".join([f"**{self.title}**", "", *body] if self.title else body)

    def latex(self) -> str:
        """A LaTeX tabular with booktabs rules, and the title above it."""

        def line(row: Iterable[str]) -> str:
            return "  " + " & ".join(map(escaped, row)) + r" \\"

        sides = "".join("r" if self._right(i) else "l" for i in range(len(self.columns)))
        body = [
            rf"\begin{{tabular}}{{{sides}}}",
            r"  \toprule",
            line(self.columns),
            r"  \midrule",
            *map(line, self._cells()),
            r"  \bottomrule",
            r"\end{tabular}",
        ]
        return "\n".join([rf"\textbf{{{escaped(self.title)}}}", "", *body] if self.title else body)

    def html(self) -> str:
        """An HTML table; all text is escaped."""
        sides = ["right" if self._right(i) else "left" for i in range(len(self.columns))]

        def line(tag: str, row: Iterable[str]) -> str:
            cells = (
                f'<{tag} class="{side}">{html.escape(text)}</{tag}>'
                for text, side in zip(row, sides, strict=True)
            )
            return f"<tr>{''.join(cells)}</tr>"

        caption = f"<caption>{html.escape(self.title)}</caption>" if self.title else ""
        body = "\n".join(line("td", row) for row in self._cells())
        head = line("th", self.columns)
        return f"<table>{caption}<thead>{head}</thead>\n<tbody>{body}</tbody></table>"
