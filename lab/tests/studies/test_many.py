"""The study of many documents: facts are in the texts, an interrupted run continues, the page."""

import pytest
from small_facts import Made, tiny_reader

from nestling.continual import ContinualLearner
from nestling.continual.study.examine import holds
from nestling.core.result import Result
from nestling.data.bigbench import Choice
from nestling.models.pretrained import stack_model, studied_level
from nestling.tasks.facts import KINDS
from nestling_lab.studies.continual import many_asked
from nestling_lab.studies.continual.many import ManyDocuments, journey
from nestling_lab.studies.continual.many_asked import facts, margins
from nestling_lab.studies.study import silent

SMALL = {
    "targets": 2, "distances": [0, 1], "probe": 200, "known": ["one"], "general": 2, "social": 2,
}  # fmt: skip
SOCIAL = [Choice("Ada fell. What next?", ("she stands up", "it rains"), 0)] * 3


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
        assert fact.sentence in text and holds(fact.sentence, fact.value)
        assert person not in fact.other and holds(fact.other, fact.value)
        assert fact.value in fact.choices and set(fact.choices) <= set(KINDS[fact.kind].values)


def test_interrupted_run_continues_after_the_last_document(tmp_path, monkeypatch):
    monkeypatch.setattr(many_asked, "load_corpus", Made)
    monkeypatch.setattr(many_asked, "read", lambda name: SOCIAL)
    whole = journey(tiny_learner(), SMALL, 0, tmp_path / "whole", silent)

    def stop(step, steps, loss):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        journey(tiny_learner(), SMALL, 0, tmp_path / "cut", stop)
    again = journey(tiny_learner(), SMALL, 0, tmp_path / "cut", silent)
    assert again.pop("seconds") != whole.pop("seconds")
    assert again == whole
    assert len(whole["replies"]["1"]) == len(whole["margins"]["0"]) == len(whole["control"]) == 2
    assert len(whole["bound"]) >= 8  # of 12 facts, some of which have equal values
    first, last = whole["kept"]
    assert len(last["general"]) == len(last["social"]) == 2
    # other text concerns no document, so that it is scored as before unless all are used
    assert first["losses"] == last["losses"] == pytest.approx(first["together"])
    assert first["together"] != last["together"]


def test_page_reports_answers_by_distance():
    study = ManyDocuments(ManyDocuments.Config(seeds=(0,), targets=1, distances=(0, 2)))
    [cell] = study.cells({})
    replies = [["red", "It is red.", True], ["tea", "Nobody knows.", False]]
    run = {
        "margins": {"0": [[0.5, 1.0]], "2": [[-0.5, 2.0]]},
        "control": [[[-1.0, -2.0], [1.0, -1.0]]],
        "stranger_margins": [[-1.0, -3.0]],
        "bound": [True, True, False],
        "unchecked": [replies],
        "at_once": [replies[1:]],
        "kept": [
            {
                "losses": {"prose": 2.0},
                "together": {"prose": 2.0},
                "general": [["Why?", "So.", True]],
                "social": [True, False],
            },
            {
                "losses": {"prose": 2.2},
                "together": {"prose": 2.4},
                "general": [["Why?", "No.", False]],
                "social": [True, True],
            },
        ],
        "own": [[1.0, 1.0], [1.0, 1.06], [1.0, 1.09]],
        "replies": {"0": [replies], "2": [replies[:1]]},
        "strangers": [[["red", "It is blue."], ["tea", "He drinks tea."]]],
        "seconds": [1.0, 2.0, 3.0],
    }
    done = Result(name="many-documents/seed0", config=cell.config, metrics=run, seed=0)
    found = study.find({cell.name: done})
    assert found.metrics["right"] == {"0": 1, "2": 1}
    assert found.metrics["asked"] == {"0": 2, "2": 1}
    assert (found.metrics["strangers_quiet"], found.metrics["strangers_asked"]) == (1, 2)
    assert found.metrics["rise"] == [pytest.approx([0.0, 0.06, 0.09])]
    assert found.metrics["likeliest"] == {"0": 2, "2": 1}
    assert (found.metrics["unchecked"], found.metrics["at_once"]) == (1, 0)
    assert (found.metrics["bound"], found.metrics["bound_asked"]) == (2, 3)
    kept = {name: pairs[0] for name, pairs in found.metrics["kept"].items()}
    assert list(kept.values()) == [[2.0, 2.2], [2.0, 2.4], [1, 0], [1, 2]]
    assert "10" in found.sections[1].tables[0].text()
    assert "50% are answered just after it and 100% with 2 more" in found.answer
    assert "+5.00 % (+0.00 to +9.00 % by document, 3 documents)" in found.sections[2].text
    assert found.answer.startswith("Not as well")  # the loss of known text rises by 5 %
    assert study.find({}).answer == "Nothing has been run yet."


def test_margin_prefers_the_sentence_that_the_model_likes_best():
    learner, [fact, *_] = tiny_learner(), facts(0, 0)[1]
    margins_of = [
        margins(learner, [fact._replace(value=v, sentence=_with(fact, v))]) for v in fact.choices
    ]
    assert sorted(found > 0 for [found] in margins_of) == [False, False, False, True]


def _with(fact, value):
    return fact.sentence.replace(fact.value, value)
