"""Asking models and scoring their answers: an oracle scores 1."""

import math

import pytest
import torch
from readers import reader
from torch.nn import functional

from nestling.core.error import UserError
from nestling.evals.answer import answer_to, ask_positions, ask_texts, spell
from nestling.evals.figures import figures
from nestling.evals.requests import Memory
from nestling.tasks import TASKS, UNSEEN, Question, QuestionTask, TokenTask

NAMES = TASKS.names()
ROWS = [
    name
    for name in NAMES
    if issubclass(TASKS.load(name), TokenTask) and TASKS.load(name).readout == "each"
]
TEXTS = [name for name in NAMES if issubclass(TASKS.load(name), QuestionTask)]


class Knowing:
    """Replaces a reader's call by the oracle's answers, in the model's tokens."""

    def __init__(self, found, task, names, lead):
        self.task, self.names, self.lead, self.size = task, names, lead, len(found.tokenizer)

    def __call__(self, ids, cache, *, last=False):
        spelt = {token: i for i, token in enumerate(self.names)}
        rows = torch.tensor([[spelt[t] for t in row[self.lead :]] for row in ids.tolist()])
        right = torch.tensor(self.names)[self.task.oracle(rows).clamp(min=0)]
        fill = torch.zeros(len(ids), self.lead, dtype=torch.long)
        return functional.one_hot(torch.cat([fill, right], 1), self.size).float(), None


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("name", ROWS)
def test_oracle_scores_one_and_guesser_scores_chance(name, own, monkeypatch):
    task, found = TASKS.load(name).tiny(), reader("hope-tiny", segment=10_000)
    names = list(range(task.vocab_size)) if own else spell(found, task.vocab_size, 0)
    lead = 0 if own else len(found.start)
    monkeypatch.setattr(found, "call", Knowing(found, task, names, lead))
    told = []
    known = ask_positions(
        found, task, count=6, batch_size=4, own=own, tell=lambda *done: told.append(done)
    )
    assert known["score"] == 1.0 and known["high_95"] == 1.0 and 0.5 < known["low_95"] < 1
    assert told == [(4, 6), (6, 6)] and known["chance"] == task.chance


def test_segment_size_does_not_change_scores():
    task = TASKS.load("recall").tiny()
    whole, parts = (
        ask_positions(reader("hope-tiny", segment=size), task, count=20) for size in (1000, 5)
    )
    assert whole == parts


def test_tokens_of_a_task_are_distinct_plain_tokens_of_the_model():
    found = reader("hope-tiny")
    names = spell(found, 256, 0)
    assert len(set(names)) == 256 and not {0, 1} & set(names)
    assert spell(found, 20, 1) == spell(found, 20, 1) != spell(found, 20, 2)
    with pytest.raises(UserError, match="--fit"):
        spell(found, 257, 0)


@pytest.mark.parametrize("name", TEXTS)
def test_every_text_task_runs_with_a_model(name):
    task = TASKS.load(name).tiny()
    found = ask_texts(reader("transformer-tiny", segment=512), task, count=1)
    # worse than uniform bytes scores below 0
    assert found["score"] <= 1 and found["count"] == 1 and found["tokens"] >= 1


class Choosing(QuestionTask):
    """Which of three words."""

    kind = "choose"
    chance = 1 / 3

    @classmethod
    def tiny(cls):
        return cls()

    def question(self, rng, *, unseen):
        return Question("the", ("one",), ("two", "one", "three"))

    def blind(self, rng, question):
        return rng.randrange(3)


def test_choice_has_the_largest_summed_likelihood():
    found, task = reader("llama"), Choosing()
    (question,) = task.examples(UNSEEN, 1)
    ids = found.start + found.encode("the")
    memory = Memory(found)
    sums = []
    for word in question.choices:
        whole = torch.tensor([ids + found.encode(f" {word}")])
        sums.append(-float(torch.cat(list(found.losses(whole)), 1)[0, len(ids) - 1 :].sum()))
    chosen = answer_to(memory, task, ids, question)
    assert chosen == sums.index(max(sums))
    task.kind = "perplexity"
    assert answer_to(memory, task, ids, question) == pytest.approx(sums[1], rel=1e-3)


def test_wilson_interval_for_binary_scores_and_student_otherwise():
    assert figures([1.0] * 10, 0.1)["high_95"] == 1.0
    four = figures([0.4, 0.5, 0.5, 0.6], 0.0)
    half = 3.18244631 * math.sqrt(0.02 / 3 / 4)
    assert four["low_95"] == pytest.approx(0.5 - half) and four["score"] == 0.5
    # shares are within 0 and 1; scores that may be negative are not
    assert figures([0.25, 0.75], 0.0)["low_95"] == 0.0
    assert figures([-1.0, 0.0], 0.0)["low_95"] == pytest.approx(-0.5 - 12.7062047 * 0.5)
    assert figures([0.5], 0.0)["low_95"] is None
    # a few equal values: the interval of two right and two wrong
    equal, mixed = figures([0.5] * 4, 0.0), figures([0.0, 1.0, 0.0, 1.0], 0.0)
    assert equal == mixed and equal["low_95"] < 0.2
