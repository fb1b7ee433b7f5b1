"""What is committed is what the grids of the studies ask for."""

import re
from pathlib import Path

import pytest

from nestling_lab.studies import STUDIES, Store, load_study

RESULTS = Path(__file__).resolve().parents[3] / "results"


@pytest.mark.parametrize("name", STUDIES.names())
def test_every_result_belongs_to_a_grid_cell(name):
    """Of its present settings, and of a stage that the results before it lead to."""
    store = Store(RESULTS, load_study(name))
    assert store.outdated() == [], "rename the study, run these again, or delete them"
    for cell, result in store.finished().items():
        assert result.name == f"{name}/{cell}"


def test_every_results_folder_belongs_to_a_study():
    folders = {path.name for path in RESULTS.iterdir() if path.is_dir()}
    assert folders <= set(STUDIES.names())


def sentence(text):
    return text.endswith(".") and not re.search(r"[.!?] +[A-Z]", text) and text[0].isupper()


@pytest.mark.parametrize("name", STUDIES.names())
def test_every_page_opens_with_a_sentence_that_answers_from_its_results(name):
    """It is what the committed results give now, and other results give another one."""
    study = load_study(name)
    done = Store(RESULTS, study).finished()
    answer, nothing = study.find(done).answer, study.find({}).answer
    assert sentence(answer) and sentence(nothing)
    page = RESULTS / name / "README.md"
    if done:
        assert answer != nothing
        assert page.read_text(encoding="utf-8").split("\n\n")[1] == f"**{answer}**"
    half = {cell: done[cell] for cell in sorted(done)[: len(done) // 2]}
    assert sentence(study.find(half).answer)
