"""Pages and figures are self-contained and deterministic."""

import re
import xml.etree.ElementTree as tree

from nestling.report import Curve, Section, Table, bars, lines, page, write_page

CURVES = {"hope": Curve([1, 2, 4], [3.0, 2.0, 1.0], [2.5, 1.5, 0.5], [3.5, 2.5, 1.5])}


def figure() -> str:
    return lines(CURVES, x_label="position (tokens)", y_label="perplexity", log_x=True)


def test_figures_are_well_formed_and_deterministic():
    for draw in (figure, lambda: bars({"a": (1.0, 0.1), "b": (2.0, 0.0)}, x_label="x")):
        assert draw() == draw()
        assert tree.fromstring(draw()).tag.endswith("svg")
    assert "perplexity" in figure() and "hope" in figure()


def test_page_is_self_contained(tmp_path):
    section = Section(
        "First", "One.\n\nTwo <i>.", [Table(columns=("a",), rows=[(1,)])], [figure()], "x < y"
    )
    path = write_page(tmp_path / "p.html", "T", [section], lead="L", provenance={"commit": "abc"})
    text = path.read_text(encoding="utf-8")
    assert not re.findall(r'(?:src|href)="(?!#)[^"]*"', text), "points to another file"
    assert "<script" not in text
    for part in ("<p>One.</p>", "Two &lt;i&gt;.", "<svg", "x &lt; y", "commit: abc"):
        assert part in text


def test_page_is_deterministic():
    sections = [Section("A", figures=[figure()])]
    assert page("T", sections, provenance={}) == page("T", sections, provenance={})
