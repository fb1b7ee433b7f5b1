"""The status of a study in each format."""

import pytest
from counting_study import Counting

from nestling.core.result import Result
from nestling_lab.studies import Store, run_study
from nestling_lab.studies.status import status


@pytest.fixture
def store(tmp_path):
    trace = tmp_path / "traces"
    trace.mkdir()
    found = Store(tmp_path / "results", Counting(trace))
    run_study(found, cells="n[12]", quiet=True)
    return found


def test_result_has_metrics_pending_cells_and_origin(store, tmp_path):
    path = status(store).result().write(tmp_path / "status.json")
    result = Result.read(path)
    assert result.metrics == {"n1": 1, "n2": 2}
    assert result.config == {"finished": ["n1", "n2"], "pending": ["n3"]}
    assert result.provenance["threads"] == "1" and " to " in result.provenance["dates"]


def test_text_markdown_and_page_hold_the_table(store, tmp_path):
    found = status(store)
    assert "2 cells finished, 1 to do." in found.text() and "n2        2" in found.text()
    assert "| n2 | 2 |" in found.write_markdown(tmp_path / "s.md").read_text()
    page = found.write_page(tmp_path / "s.html").read_text()
    assert "Study: counting" in page and ">n2<" in page


def test_stray_files_are_named(store):
    (store.folder / "old.json").write_text("{}")
    assert "1 files of other settings left out" in status(store).text()
