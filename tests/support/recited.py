"""A small model that has studied in chat form, and scripted speakers."""

import copy
import dataclasses
from collections.abc import Mapping

import torch
from small_student import new_student

from nestling.continual.study.form import Form, plain
from nestling.continual.study.material import Question
from nestling.continual.study.plan import Plan
from nestling.continual.study.record import Studied
from nestling.continual.study.speaker import Score, Speaker, Told

NONE: dict[str, torch.Tensor] = {}
LIKELY = 0.9  # of the token that continues a sentence


def new_talker():
    """A learner with a chat template that has studied a little."""
    learner = new_student()
    text = learner.text
    text._tokenizer = copy.deepcopy(text.tokenizer)
    text.tokenizer.chat_template = "{% for m in messages %}[{{ m['content'] }}]{% endfor %}"
    learner.read("Lelidis Zikipot keeps a goat at home.", name="one")
    quick = Plan(
        makers=("moved", "gist"), rank=4, rounds=6, near_count=2, own_count=2, own_length=8
    )
    learner.study(dataclasses.replace(quick, keys=1))
    return learner


class Scripted(Speaker):
    """Answers cues with sentences, and finds every sentence equally likely after anything else.

    With weights it has learned them; without, every token is as likely as any other. ``echoes``
    gives the log-likelihood of a question after a text.
    """

    def __init__(self, size: int, cues: Mapping[tuple[int, ...], tuple[int, ...]], echoes=None):
        self.size, self.cues, self.echoes = size, dict(cues), echoes
        self.learned = set(cues.values())
        self.asked: list[tuple[int, int]] = []  # prompts and tokens of each call

    def told(self, ids, weights=NONE):
        return Told(tuple(ids), None)

    def _next(self, said: tuple[int, ...], weights) -> torch.Tensor:
        row = torch.full((self.size,), 1 / self.size)
        for sentence in self.learned if weights else ():
            if sentence[: len(said)] == said and len(said) < len(sentence):
                row[sentence[len(said)]] += self.size * LIKELY
        return (row / row.sum()).log()

    def scores(self, told, asked, weights=NONE):
        found = []
        for prompt, answer in asked:
            if self.echoes is not None and (fit := self.echoes(prompt)) is not None:
                found.append(Score(torch.full((len(answer),), fit / len(answer)), True))
                continue
            rows = [self._next(answer[:n], weights)[token] for n, token in enumerate(answer)]
            found.append(Score(torch.stack(rows), True))
        return found

    def said(self, told, prompts, *, most, stop, weights=NONE, after=()):
        self.asked.append((len(prompts), most))
        found = []
        for prompt in prompts:
            [cue] = [cue for cue in self.cues if prompt[: len(cue)] == cue]
            rest = self.cues[cue][len(prompt) - len(cue) :]
            line = rest[: next((n for n, token in enumerate(rest) if token in stop), len(rest))]
            found.append(line[:most])
        return found


def own(question, sentence=0, answer="x", **more):
    return Question(question, answer, "", "moved", sentence, **more)


def document(about, *questions, name="one"):
    asked = tuple(own(q, answer=answer) for q, answer in questions)
    return Studied(name, name, asked, (), {}, {}, about)


def scripted(talker, lines, echoes=None):
    """The form, the tokens of sentences with end tokens, and a speaker that gives them to cues."""
    text, form = talker.text, talker.school.talk
    assert isinstance(form, Form) and form.chat
    end = form.answer("")[-1:]
    said = {cue: (*plain(text, line), *end) for cue, line in lines.items()}
    script = {tuple(form.prompt(cue)): ids for cue, ids in said.items()}
    return form, said, Scripted(len(text.tokenizer), script, echoes)
