"""Examines a model about what it has studied, without context before the questions."""

import random
from collections.abc import Mapping, Sequence
from itertools import groupby

from torch import Tensor

from nestling.continual.study.form import Form
from nestling.continual.study.makers import natural
from nestling.continual.study.material import Question
from nestling.continual.study.speaker import Speaker
from nestling.continual.study.words import words

ASKED = 12  # questions, including held-out ones
LONGEST = 24  # tokens of an answer, at most


def hold_out(questions: list[Question], share: float, seed: str) -> list[Question]:
    """Hold out a share of the questions, chosen among second wordings of others."""
    fit = [n for n, one in enumerate(questions) if one.answer and natural(one)]
    asked: set[tuple[int, str]] = set()
    can = []
    for n in fit:
        key = (questions[n].sentence, questions[n].answer)
        if key in asked:
            can.append(n)
        asked.add(key)
    count = min(round(share * len(fit)), len(can))
    held = set(random.Random(f"held:{seed}").sample(can, count))
    return [one._replace(held=n in held) for n, one in enumerate(questions)]


def asked_of(questions: Sequence[Question], seed: str, most: int = ASKED) -> list[Question]:
    """The questions of an examination: the held-out ones, as many as fit, and some others."""
    short = [one for one in questions if one.answer and natural(one)]
    held = [one for one in short if one.held][: most // 2]
    others = [one for one in short if not one.held]
    count = min(most - len(held), len(others))
    return [*held, *random.Random(f"ask:{seed}").sample(others, count)]


def by_sentence(questions: Sequence[Question]) -> list[list[Question]]:
    """The studied questions about each sentence of a document, likeliest first.

    Those a user might ask; if there are none, any.
    """
    studied = [one for one in questions if not one.held]
    asked = [one for one in studied if one.answer and natural(one)] or studied
    groups = groupby(asked, key=lambda one: one.sentence)  # passages follow one another
    return [sorted(group, key=lambda one: -one.sure) for _, group in groups]


def right(
    speaker: Speaker, form: Form, questions: Sequence[Question], weights: Mapping[str, Tensor]
) -> list[bool]:
    """Whether the model's reply to each question contains its answer."""
    said = answers(speaker, form, [one.question for one in questions], weights)
    return [holds(text, one.answer) for text, one in zip(said, questions, strict=True)]


def answers(
    speaker: Speaker, form: Form, questions: Sequence[str], weights: Mapping[str, Tensor]
) -> list[str]:
    """The model's reply to each question."""
    told = speaker.told(form.opening, weights)
    prompts = [form.prompt(question) for question in questions]
    found = speaker.said(told, prompts, most=LONGEST, stop=form.stop, weights=weights)
    return [form.text.decode(ids) for ids in found]


def holds(text: str, answer: str) -> bool:
    """Whether a text contains an answer, word for word.

    >>> holds("It is serviced every Eleven weeks.", "eleven weeks"), holds("tenth", "ten")
    (True, False)
    """
    there, wanted = ([word.low for word in words(part)] for part in (text, answer))
    size = len(wanted)
    return size > 0 and any(there[i : i + size] == wanted for i in range(len(there) - size + 1))
