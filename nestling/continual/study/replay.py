"""Selects earlier questions to replay, except those that a later text corrects."""

import random
from collections.abc import Sequence

from nestling.continual.study.material import Question
from nestling.continual.study.record import Open, Studied
from nestling.continual.study.words import telling

MOST = 24  # questions
ALIKE = 0.6  # questions that share at least this fraction of content words ask for the same


def replayed(
    studied: Sequence[Studied], now: Open, seed: str, most: int = MOST
) -> list[tuple[str, str]]:
    """Questions and answers of earlier documents, and of earlier passages of this one.

    Those that the current passage answers differently are left out: the later text wins.
    """
    earlier = [one for document in studied for one in document.questions]
    own = [one for one in now.earlier if not one.held]
    fit = [one for one in earlier if one.answer and not corrected(one, now.questions)]
    fit += [one for one in own if one.answer]
    chosen = random.Random(f"replay:{seed}").sample(fit, min(most, len(fit)))
    return [(one.question, one.answer) for one in chosen]


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
