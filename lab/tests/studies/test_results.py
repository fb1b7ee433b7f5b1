"""Committed results match the grids of the studies."""

import re
from pathlib import Path

import pytest

from nestling_lab.studies import STUDIES, Store, load_study
from nestling_lab.studies.reports import write_index

RESULTS = Path(__file__).resolve().parents[3] / "results"


@pytest.mark.parametrize("name", STUDIES.names())
def test_every_result_belongs_to_a_grid_cell(name):
    """Results have the current settings, and belong to a stage implied by earlier ones."""
    store = Store(RESULTS, load_study(name))
    assert store.outdated() == [], "rename the study, run these again, or delete them"
    for cell, result in store.finished().items():
        assert result.name == f"{name}/{cell}"


def test_every_results_folder_belongs_to_a_study():
    folders = {path.name for path in RESULTS.iterdir() if path.is_dir()}
    assert folders <= set(STUDIES.names())


def test_list_of_results_has_the_answer_of_every_page(tmp_path):
    for page in RESULTS.glob("*/README.md"):
        copy = tmp_path / page.relative_to(RESULTS)
        copy.parent.mkdir()
        copy.write_bytes(page.read_bytes())
    written = write_index(tmp_path, STUDIES.names())
    assert written.read_text() == (RESULTS / "README.md").read_text()


def sentence(text):
    return text.endswith(".") and not re.search(r"[.!?] +[A-Z]", text) and text[0].isupper()


@pytest.mark.parametrize("name", STUDIES.names())
def test_every_page_opens_with_a_sentence_that_answers_from_its_results(name):
    """The sentence follows from the committed results, and changes with them."""
    study = load_study(name)
    done = Store(RESULTS, study).finished()
    answer, nothing = study.find(done).answer, study.find({}).answer
    assert sentence(answer) and sentence(nothing)
    page = RESULTS / name / "README.md"
    if done:
        assert answer != nothing
        _, opening, table, *_ = page.read_text(encoding="utf-8").split("\n\n")
        assert opening == f"**{answer}**" and table.startswith("| "), "then what shows it"
    half = {cell: done[cell] for cell in sorted(done)[: len(done) // 2]}
    assert sentence(study.find(half).answer)
