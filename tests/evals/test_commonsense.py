"""Commonsense: the choice of tasks and their metrics."""

import importlib.util
import json

import pytest
from readers import reader

from nestling.core.error import UserError
from nestling.data import bigbench
from nestling.evals import commonsense as room
from nestling.evals.commonsense import PAPER, chance, choose, commonsense
from nestling.evals.requests import Ask, Memory

HERE = importlib.util.find_spec("lm_eval") is not None
needs_it = pytest.mark.skipif(not HERE, reason="lm-eval is not installed (nestling[eval])")


@pytest.fixture(autouse=True)
def made(tmp_path, monkeypatch):
    """Generated questions instead of BIG-bench's, and no hub."""
    monkeypatch.setenv("NESTLING_DATA", str(tmp_path))
    monkeypatch.setattr(room, "hub_is_reachable", lambda: False)
    for name in bigbench.TASKS:
        examples = [
            {"input": f"{name} {i}?", "target_scores": {"yes": i % 2, "no": 1 - i % 2}}
            for i in range(4)
        ]
        examples.append({"input": "x", "target_scores": {"a": 0, "b": 0, "c": 1, "d": 0}})
        path = bigbench.place(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"examples": examples}))


def test_chance_is_the_mean_over_questions():
    assert chance(bigbench.read("timedial")) == pytest.approx((4 / 2 + 1 / 4) / 5)


def test_choice_by_likelihood_or_per_character_likelihood():
    found = reader("hope-tiny")
    question = bigbench.Choice("who?", ("a", "the longest choice of them all"), 0)
    context = tuple(found.lead + found.encode("Q: who?\nA:"))
    texts = [tuple(found.encode(f" {text}")) for text in question.choices]
    scores = [s for s, _ in Memory(found).score([Ask(context, text) for text in texts])]
    figures = choose(found, [question])
    assert figures["acc"] == float(scores[0] > scores[1]) == 1.0
    each = [s / len(text) for s, text in zip(scores, question.choices, strict=True)]
    assert figures["acc_norm"] == float(each[0] > each[1])
    assert figures["chance"] == 0.5 and figures["questions"] == 1


def test_the_paper_names_eight_accuracies():
    assert len([name for name in PAPER if name != "wikitext"]) == 8


def test_mistakes_are_user_errors():
    found = reader("hope-tiny")
    with pytest.raises(UserError, match="did you mean 'bigbench'"):
        commonsense(found, data="bigbnch")
    with pytest.raises(UserError, match="of bigbench: did you mean 'timedial'"):
        commonsense(found, tasks=["timedal"])
    with pytest.raises(UserError, match="of hub: did you mean 'winogrande'"):
        commonsense(found, data="hub", tasks=["winogrand"])


@needs_it
@pytest.mark.parametrize("carry", [False, True])
def test_matches_lm_eval(carry, monkeypatch):
    asked = {"tasks": ["social_iqa", "timedial"], "limit": 4, "carry": carry}
    found = commonsense(reader("hope-tiny"), **asked)
    monkeypatch.setattr(room, "version", lambda: None)
    own = commonsense(reader("hope-tiny"), **asked)
    assert found["harness"] and own["harness"] is None
    for name, figures in own["tasks"].items():
        assert figures == {key: pytest.approx(found["tasks"][name][key]) for key in figures}


def test_offline_tasks_are_scored_with_their_chance():
    said, told = [], []
    figures = commonsense(
        reader("hope-tiny"),
        tasks=["social_iqa", "timedial"],
        limit=4,
        say=said.append,
        tell=lambda *done: told.append(done),
    )
    assert said == ["data: bigbench (the hub cannot be reached)", "social_iqa, timedial"]
    assert told and told[-1][0] == told[-1][1]
    assert figures["data"] == "bigbench" and list(figures["tasks"]) == ["social_iqa", "timedial"]
    found = figures["tasks"]["social_iqa"]
    assert found["questions"] == 4 and found["chance"] == 0.5
    assert 0 <= found["acc"] <= 1 and 0 <= found["acc_norm"] <= 1
    for name, figures_of_it in figures["tasks"].items():
        own = choose(reader("hope-tiny"), bigbench.read(name)[:4])
        assert own == {key: pytest.approx(figures_of_it[key]) for key in own}
    assert figures["mean_accuracy"] == pytest.approx(
        (found["acc"] + figures["tasks"]["timedial"]["acc"]) / 2
    )
