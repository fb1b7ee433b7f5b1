"""Replies are recalled, checked against the question, and the one that fits is said."""

import copy
import dataclasses
from collections.abc import Mapping

import pytest
import torch
from small_student import new_student

from nestling.continual.study import recall
from nestling.continual.study.form import Form, plain
from nestling.continual.study.plan import Plan
from nestling.continual.study.recall import Reply, best, openings, recalled
from nestling.continual.study.speaker import Line, Score, Speaker, Told

NONE: dict[str, torch.Tensor] = {}
LIKELY = 0.9  # of the token that goes on with a sentence


@pytest.fixture(scope="module")
def talker():
    """A learner with a chat template that has studied a little."""
    learner = new_student()
    text = learner.text
    text._tokenizer = copy.deepcopy(text.tokenizer)
    text.tokenizer.chat_template = "{% for m in messages %}[{{ m['content'] }}]{% endfor %}"
    learner.read("Lelidis Zikipot keeps a goat at home.", name="one")
    quick = Plan(makers=("gist",), rank=4, rounds=6, near_count=2, own_count=2, own_length=8)
    learner.study(dataclasses.replace(quick, keys=1))
    return learner


class Scripted(Speaker):
    """Says one of some sentences, whatever was asked, and knows how a question follows a text.

    With weights it has learned the sentences; without it every token is as likely as any other.
    """

    def __init__(self, size: int, sentences: Mapping[tuple[int, ...], float], echoes):
        self.size, self.sentences, self.echoes = size, dict(sentences), echoes

    def told(self, ids, weights=NONE):
        return Told(tuple(ids), None)

    def _next(self, said: tuple[int, ...], weights) -> torch.Tensor:
        row = torch.full((self.size,), 1 / self.size)
        shares = {s: p for s, p in self.sentences.items() if s[: len(said)] == said and weights}
        for sentence, share in shares.items():
            if len(said) < len(sentence):
                row[sentence[len(said)]] += self.size * LIKELY * share
        return (row / row.sum()).log()

    def next_tokens(self, told, prompts, weights=NONE):
        return torch.stack([self._next(prompt[1:], weights) for prompt in prompts])

    def scores(self, told, asked, weights=NONE):
        found = []
        for prompt, answer in asked:
            if not weights and (fit := self.echoes(prompt)) is not None:
                found.append(Score(torch.full((len(answer),), fit / len(answer)), True))
                continue
            rows = [self._next(answer[:n], weights)[token] for n, token in enumerate(answer)]
            found.append(Score(torch.stack(rows), True))
        return found

    def written(self, told, prompts, *, most, stop, weights=NONE, after=(), scored=True):
        found = []
        for prompt in prompts:
            line, nats = list(prompt[1:]), 0.0
            while len(line) < len(prompt) - 1 + most:
                best = self._next(tuple(line), weights).max(-1)
                nats += float(best.values)
                if int(best.indices) in stop:
                    break
                line.append(int(best.indices))
            found.append(Line(tuple(line[len(prompt) - 1 :]), nats))
        return found


def reply(**changes):
    return Reply((1, 2), -1.0, 3.0, -0.1, 5.0)._replace(**changes)


def test_the_reply_that_the_question_fits_is_said():
    likely, fitting = reply(nats=-0.1, fit=2.0), reply(nats=-3.0, fit=20.0)
    assert best([likely, fitting]) is fitting
    assert best([likely, reply(nats=-9.0, fit=5.0)]) is likely


def test_a_reply_that_does_not_fit_is_never_said():
    poor, good = reply(fit=-9.0), reply(nats=-3.0)
    assert best([poor]) is None and best([]) is None
    assert best([poor, good]) is good


def test_openings_are_the_likeliest_ones(monkeypatch):
    monkeypatch.setattr(recall, "FIRST", 2)
    monkeypatch.setattr(recall, "OPENINGS", 40)
    monkeypatch.setattr(recall, "WITHIN", 100.0)
    speaker = Scripted(40, {(1, 2, 3): 0.6, (1, 4, 3): 0.3, (5, 6, 7): 0.1}, lambda prompt: None)
    found = openings(speaker, frozenset({0}), Told((), None), (39,), {"w": torch.ones(1)})
    assert list(found)[:3] == [(1, 2), (1, 4), (5, 6)]
    assert len(found) == 40 and all(0 not in ids for ids in found)


def test_the_sentence_asked_for_is_found_though_another_is_likelier(talker):
    text, form = talker.text, talker.school.talk
    assert isinstance(form, Form) and form.chat
    lines = {"The goat is kept at home.": 0.85, "It was born in Padua, a town.": 0.15}
    ids = {line: plain(text, line) for line in lines}
    end = form.answer("")[-1:]

    def echoes(prompt):
        """A question about Padua is likely after the sentence that names it."""
        told = text.decode(list(prompt))
        return (-2.0 if "Padua" in told else -30.0) if told.startswith("Text:") else None

    size = len(text.tokenizer)
    question, learned = "In which town was it born?", {"w": torch.ones(1)}
    sentences = {(*ids[line], *end): share for line, share in lines.items()}
    speaker = Scripted(size, sentences, echoes)
    found = recalled(speaker, form, question, learned, {})
    likeliest = max(found, key=lambda one: one.nats)
    assert text.decode(likeliest.ids) == "The goat is kept at home."
    chosen = best(found)
    assert chosen is not None and text.decode(chosen.ids) == "It was born in Padua, a town."


def test_what_study_has_not_taught_is_neither_followed_nor_returned(talker):
    """The model says the same without what it has learned: it is given up after a few tokens."""
    text, form = talker.text, talker.school.talk
    ids = plain(text, "The goat is kept at home, and it was born in Padua, a town by the river.")
    assert len(ids) > recall.HEARD
    speaker = Scripted(
        len(text.tokenizer), {(*ids, *form.answer("")[-1:]): 1.0}, lambda prompt: None
    )
    lengths = []
    written = speaker.written

    def watched(*given, most, **more):
        lengths.append(most)
        return written(*given, most=most, **more)

    speaker.written = watched
    learned = {"w": torch.ones(1)}
    assert [one.ids for one in recalled(speaker, form, "Where is it kept?", learned, {})] == [ids]
    assert len(lengths) == 2
    assert recalled(speaker, form, "Where is it kept?", learned, learned) == []
    assert lengths[2:] == [recall.HEARD - recall.FIRST]


def test_where_nothing_fits_the_base_answers(talker, monkeypatch):
    asked = "Where does the river end?"
    monkeypatch.setattr(recall, "best", lambda replies: None)
    base = talker.fork()
    base.reset()
    assert talker.ask(asked, tokens=12) == base.ask(asked, tokens=12)


@pytest.mark.parametrize("tokens", [3, 12])
def test_a_reply_has_no_more_tokens_than_asked_for(talker, monkeypatch, tokens):
    ids = plain(talker.text, "Lelidis Zikipot keeps a goat at home.")
    monkeypatch.setattr(recall, "best", lambda replies: reply(ids=ids))
    said = talker.ask("Who keeps a goat?", tokens=tokens)
    assert said == talker.text.decode(ids[:tokens]).strip()


def test_without_the_check_the_likeliest_is_said(talker, monkeypatch):
    monkeypatch.setattr(recall, "recalled", lambda *given: pytest.fail("it was checked"))
    said = talker.ask("Who keeps a goat?", tokens=6, check=False)
    assert said == talker.generate("Who keeps a goat?", tokens=6, chat=True).strip()
