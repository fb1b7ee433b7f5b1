"""A page in a real browser: no errors, figures present, fits on a phone."""

import driven
import pytest
from browser import open_page

from nestling.report import Curve, Section, Table, grid, lines, write_page
from nestling.report.boxes import Box, nested_html
from nestling.report.coloured import coloured_html, scale_html

WIDE = Table(columns=tuple(f"a long heading {i}" for i in range(12)), rows=[("x" * 30,) * 12])
LONG = "a-word-without-any-blank-that-is-longer-than-the-screen-of-a-phone-is-wide" * 2


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    figures = [
        lines({"hope": Curve([1, 2, 4], [3.0, 2.0, 1.0])}, x_label="tokens", y_label="loss"),
        grid([[1.0, 0.5]], rows=["hope"], columns=["1K", "2K"], x_label="length", y_label=""),
    ]
    sections = [Section(f"A heading {LONG}", f"Text. {LONG}", [WIDE, WIDE], figures, LONG)]
    path = tmp_path_factory.mktemp("page") / "page.html"
    return write_page(path, "Title", sections, lead=LONG, provenance={"commit": LONG})


@pytest.mark.parametrize("width", [390, 1200])
def test_a_page_is_readable_at_any_width(page, tmp_path, width):
    found = open_page(page, tmp_path, width=width)
    assert found.complaints == [] and found.title == "Title"
    assert (found.figures, found.tables) == (2, 2)
    assert found.width <= width and found.smallest >= 13


def test_page_is_accessible(tmp_path):
    """Contrast, names and order by the rules of axe-core, including boxes and coloured text."""
    bands = [[Box(name, "once a step", "twice")] for name in ("slow", "middle", "fast")]
    parts = [nested_html(bands), coloured_html([("A ", None), ("word", 9.0)]), scale_html()]
    figure = lines({"hope": Curve([1, 2], [3.0, 2.0])}, x_label="tokens", y_label="loss")
    section = Section("A heading", "Text.", [WIDE], [figure], "listing", parts)
    file = write_page(tmp_path / "p.html", "Title", [section], lead="Lead.", provenance={"a": 1})
    with driven.opened(file.as_uri(), tmp_path) as shown:
        shown.wait("document.readyState === 'complete'")
        for width, dark in ((390, True), (1200, False)):
            shown.look(width, dark=dark)
            assert not shown.faults(), (width, dark)


def test_probe_detects_overflow_and_console_errors(tmp_path):
    bad = tmp_path / "bad.html"
    bad.write_text(
        "<title>b</title><p style='width:700px'>x</p><script>console.error('no')</script>"
    )
    found = open_page(bad, tmp_path)
    assert found.width > 390 and found.complaints and found.figures == 0
