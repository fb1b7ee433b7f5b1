"""The study of many documents: facts are in the texts, an interrupted run continues, the page."""

import pytest
from small_facts import Made, tiny_reader

from nestling.continual import ContinualLearner
from nestling.continual.study.examine import holds
from nestling.core.result import Result
from nestling.models.pretrained import stack_model, studied_level
from nestling_lab.studies.continual import many
from nestling_lab.studies.continual.many import ManyDocuments, facts, journey
from nestling_lab.studies.study import silent

SMALL = {"targets": 1, "distances": [0, 1], "probe": 200}


def tiny_learner():
    model, tokenizer = tiny_reader()
    return ContinualLearner(stack_model(model, tokenizer, [studied_level(4, (1, 2))], "low-rank"))


def test_documents_answer_their_questions_and_no_others():
    text, asked = facts(0, 3)
    assert facts(0, 3) == (text, asked) != facts(1, 3)
    assert len(asked) == 6
    person = text.splitlines()[0].removeprefix("About ")
    for fact in asked:
        assert holds(text, fact.value) and person in fact.ask and person not in fact.stranger


def test_interrupted_run_continues_after_the_last_document(tmp_path, monkeypatch):
    monkeypatch.setattr(many, "load_corpus", Made)
    whole = journey(tiny_learner(), SMALL, 0, tmp_path / "whole", silent)

    def stop(step, steps, loss):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        journey(tiny_learner(), SMALL, 0, tmp_path / "cut", stop)
    again = journey(tiny_learner(), SMALL, 0, tmp_path / "cut", silent)
    for name in ("known", "own", "replies", "strangers"):
        assert again[name] == whole[name]
    assert len(whole["known"]) == 3 and len(whole["replies"]["1"]) == 1


def test_page_reports_answers_by_distance():
    study = ManyDocuments(ManyDocuments.Config(seeds=(0,), targets=1, distances=(0, 2)))
    [cell] = study.cells({})
    replies = [["red", "It is red.", True], ["tea", "Nobody knows.", False]]
    run = {
        "known": [2.0, 2.0, 2.1, 2.2],
        "own": [[1.0, 1.0], [1.0, 1.01], [1.01, 1.05]],
        "replies": {"0": [replies], "2": [replies[:1]]},
        "strangers": [[["red", "It is blue."], ["tea", "He drinks tea."]]],
        "seconds": [1.0, 2.0, 3.0],
    }
    done = Result(name="many-documents/seed0", config=cell.config, metrics=run, seed=0)
    found = study.find({cell.name: done})
    assert found.metrics["right"] == {"0": 1, "2": 1}
    assert found.metrics["asked"] == {"0": 2, "2": 1}
    assert (found.metrics["strangers_quiet"], found.metrics["strangers_asked"]) == (1, 2)
    assert found.metrics["rise"]["own"] == [pytest.approx(0.05)]
    assert found.metrics["rise"]["known"] == [pytest.approx(0.1)]
    assert "50% are answered just after it and 100% with 2 more" in found.answer
    assert found.answer.startswith("Not as well")  # the loss of known text rises by 5 %
    assert study.find({}).answer == "Nothing has been run yet."
