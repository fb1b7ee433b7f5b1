"""Report files, also of an unfinished study, and the page in a browser."""

import dataclasses
import xml.etree.ElementTree as tree

import pytest
from browser import open_page
from counting_study import Counting

from nestling.report import Curve, lines
from nestling_lab.studies import STUDIES, Store, load_study, run_study
from nestling_lab.studies.reports import write_report
from nestling_lab.studies.status import status


class Drawing(Counting):
    """A study with a figure."""

    def find(self, done):
        finding = super().find(done)
        curve = Curve([1, 2], [2.0, 1.0])
        figure = lines({"a": curve}, x_label="x", y_label="y")
        sections = [section._replace(figures=[figure]) for section in finding.sections]
        return finding._replace(sections=sections)


@pytest.fixture
def store(tmp_path):
    trace = tmp_path / "traces"
    trace.mkdir()
    found = Store(tmp_path / "results", Drawing(trace))
    run_study(found, cells="n[12]", quiet=True)
    return found


def test_every_format_is_written_and_lists_missing_cells(store, tmp_path):
    found = status(store)
    files = write_report(found, tmp_path / "docs")
    assert [str(path.relative_to(tmp_path / "docs")) for path in files] == ["README.md", "1.svg"]
    written = found.write_page(tmp_path / "a.html"), found.write_latex(tmp_path / "a.tex")
    markdown, page, latex = (path.read_text() for path in (files[0], *written))
    assert "To do: n3." in page and "To do: n3." in markdown
    long = dataclasses.replace(found, pending=[f"n{i}" for i in range(12)])
    assert long.missing.endswith("n9, and 2 more")
    assert "![Values](1.svg)" in markdown and "| n2 | 2 |" in markdown
    assert r"n2 & 2 \\" in latex and "<svg" in page
    assert tree.parse(files[1]).getroot().tag.endswith("svg")


def test_stale_figures_are_deleted_and_reports_are_deterministic(store, tmp_path):
    first = {path: path.read_bytes() for path in write_report(status(store), tmp_path)}
    stale = tmp_path / "2.svg"
    stale.write_text("old")
    again = {path: path.read_bytes() for path in write_report(status(store), tmp_path)}
    assert again == first and not stale.exists()


@pytest.mark.parametrize("name", ["counting", *STUDIES.names()])
def test_every_study_page_renders_on_a_phone(name, store, tmp_path):
    """For committed results; a study without results says that nothing is known yet."""
    found = status(store if name == "counting" else Store("results", load_study(name)))
    page = found.write_page(tmp_path / "page.html")
    shown = open_page(page, tmp_path, width=390)
    figures = sum(len(section.figures) for section in found.sections)
    tables = sum(len(section.tables) for section in found.sections)
    assert shown.complaints == [] and shown.title == f"Study: {found.study.name}"
    assert (shown.figures, shown.tables) == (figures, tables)
    assert shown.width <= 390 and shown.smallest >= 13
