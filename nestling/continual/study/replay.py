"""Selects earlier questions to replay, except those that a later text corrects."""

import random
from collections.abc import Sequence
from itertools import zip_longest

from nestling.continual.study.examine import by_sentence
from nestling.continual.study.material import Question
from nestling.continual.study.record import Open, Studied
from nestling.continual.study.words import telling

MOST = 32  # questions
ALIKE = 0.6  # questions that share at least this fraction of content words ask for the same


def replayed(
    studied: Sequence[Studied], now: Open, seed: str, most: int = MOST
) -> list[tuple[str, str]]:
    """Questions and answers of earlier documents, and of earlier passages of this one.

    Each sentence has its likeliest question before any has a second one, as these are what the
    model recites by. Those that the current passage answers differently are left out: the later
    text wins.
    """
    groups = [
        [one for one in group if one.answer and not corrected(one, now.questions)]
        for document in studied
        for group in by_sentence(document.questions)
    ]
    groups += [[one for one in group if one.answer] for group in by_sentence(now.earlier)]
    random.Random(f"replay:{seed}").shuffle(groups)
    turns = [one for turn in zip_longest(*groups) for one in turn if one is not None]
    return [(one.question, one.answer) for one in turns[:most]]


def corrected(old: Question, new: Sequence[Question]) -> bool:
    """Whether a new question asks for the same but has another answer."""
    return any(
        one.answer
        and old.answer
        and one.answer.lower() != old.answer.lower()
        and alike(one.question, old.question) >= ALIKE
        for one in new
    )


def alike(one: str, other: str) -> float:
    """The share of content words that two questions have in common.

    >>> alike("How often must the pump be serviced?", "The pump is serviced how often?")
    1.0
    """
    a, b = ({*telling(text)} for text in (one, other))
    return len(a & b) / len(a | b) if a | b else 0.0
