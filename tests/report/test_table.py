"""One table in every format."""

import pytest

from nestling.report import Table
from nestling.report.table import escaped

TABLE = Table(columns=("name", "value"), rows=[("a|<b>", 1.5), ("c", None)], title="T")


def test_numbers_are_right_aligned_in_each_format():
    assert "  1.500" in TABLE.text() and TABLE.text().startswith("T\n")
    assert "| --- | ---: |" in TABLE.markdown()
    assert '<td class="right">1.500</td>' in TABLE.html()


def test_special_characters_are_escaped():
    assert "a\\|<b>" in TABLE.markdown()
    assert "a|&lt;b&gt;" in TABLE.html() and "<b>" not in TABLE.html()


def test_row_of_wrong_length_is_refused():
    with pytest.raises(ValueError, match="2 cells for 1"):
        Table(columns=("a",), rows=[(1, 2)])


def test_latex_escapes_and_aligns():
    lines = TABLE.latex().splitlines()
    assert lines[0] == r"\textbf{T}" and lines[2] == r"\begin{tabular}{lr}"
    assert r"  a|$<$b$>$ & 1.500 \\" in lines and lines[-1] == r"\end{tabular}"
    assert escaped("a_b 5 +/- 1") == r"a\_b 5 $\pm$ 1"
