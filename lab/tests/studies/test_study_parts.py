"""The study of the parts of self-study: every variant is a plan, one run, the page."""

import dataclasses

import pytest
from small_facts import Made, tiny_reader

from nestling.continual import ContinualLearner
from nestling.continual.study.plan import Plan
from nestling.core.error import UserError
from nestling.core.result import Result
from nestling.models.pretrained import stack_model, studied_level
from nestling_lab.studies.continual import study_parts
from nestling_lab.studies.continual.study_parts import PARTS, StudyParts, measured


def tiny_learner():
    model, tokenizer = tiny_reader()
    return ContinualLearner(stack_model(model, tokenizer, [studied_level(4, (1, 2))], "low-rank"))


@pytest.mark.parametrize("name", PARTS)
def test_every_part_changes_the_plan_or_the_layers(name):
    part, plan = PARTS[name], Plan()
    changed = dataclasses.replace(plan, **part.plan)
    assert (changed == plan and part.layers is None) == (name == "default")


def test_unknown_part_is_refused_with_the_nearest_name():
    with pytest.raises(UserError, match="no-near"):
        StudyParts.Config(parts=("no-nera",))


def test_a_run_asks_about_every_document_and_says_what_it_cost(monkeypatch):
    monkeypatch.setattr(study_parts, "load_corpus", Made)
    config = {"documents": 2, "probe": 200, "plan": {"rounds": 1, "makers": ["moved", "gist"]}}
    first, again = (measured(tiny_learner(), config, 0) for _ in range(2))
    assert first.pop("seconds") != again.pop("seconds") and first == again
    for kind in ("replies", "unchecked", "strangers", "margins"):
        assert len(first[kind]) == 12
    for kind in ("known", "own"):
        assert len(first[kind]) == 2 and all(before != after for before, after in first[kind])
    other = measured(tiny_learner(), config | {"plan": {"rounds": 1, "makers": ["gist"]}}, 0)
    assert other["margins"] != first["margins"]


def test_page_names_what_is_worth_most():
    study = StudyParts(StudyParts.Config(parts=("default", "no-near", "sentences"), seeds=(0,)))

    def run(right, rise):
        return {
            "replies": [["a", "a", right > n] for n in range(4)],
            "unchecked": [["a", "a", right > n] for n in range(4)],
            "strangers": [["a", "b", False]] * 4,
            "margins": [1.0, -1.0, 1.0, 1.0],
            "own": [[1.0, 1.0 + rise]],
            "known": [[2.0, 2.0]],
            "seconds": [3.0, 5.0],
        }

    runs = [run(4, 0.01), run(3, 0.05), run(0, 0.02)]
    done = {
        cell.name: Result(name=f"study-parts/{cell.name}", config=cell.config, metrics=m, seed=0)
        for cell, m in zip(study.cells({}), runs, strict=True)
    }
    found = study.find(done)
    assert found.metrics["default"]["unchecked"] == 4 and found.metrics["sentences"]["replies"] == 0
    assert found.metrics["no-near"]["own"] == [pytest.approx(0.05)]
    assert "fewest with sentences alone, one question (0%)" in found.answer
    assert "most with no near questions (+5.0%)" in found.answer
    assert len(found.shown.tables[0].rows) == 3
    assert study.find({}).answer == "Nothing has been run yet."
