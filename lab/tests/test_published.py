"""The paper's numbers: labelled, complete, and consistent except for noted errors."""

import pytest

from nestling.core.error import UserError
from nestling_lab.published import published, published_names, record

SLIPS = {
    ("language-760m", "TTT"),
    ("language-1.3b", "Comba"),
    ("language-camera-ready", "760M TTT"),
}


@pytest.mark.parametrize("name", published_names())
def test_every_table_has_a_version_and_all_cells(name):
    table = published(name)
    assert "arXiv 2512.24695v1" in table.title or "camera-ready" in table.title
    assert all(isinstance(value, float) for row in table.rows for value in row[1:])
    assert len(set(table.columns)) == len(table.columns)
    assert any("Hope" in row[0] for row in table.rows)


def test_printed_averages_match_except_noted_errors():
    for name in ("language-760m", "language-1.3b", "language-camera-ready"):
        for row, values in record()["tables"][name]["rows"].items():
            mean = sum(values[2:10]) / 8
            assert (abs(mean - values[10]) < 0.03) == ((name, row) not in SLIPS), (name, row, mean)


def test_parts_of_a_table_and_unknown_ones():
    part = published("niah", columns=("S-NIAH-1 4K", "MV-NIAH 4K"), rows=("Hope", "Titans"))
    assert part.rows == [("Titans", 100.0, 24.6), ("Hope", 100.0, 31.4)]
    with pytest.raises(UserError, match="did you mean 'niah'"):
        published("naih")
