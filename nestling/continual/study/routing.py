"""Routing: which of the studied documents a text concerns. Only their changes are used for it.

Each document is studied from the base alone, so its change is an expert. A text wakes those that
share most words with it; all others cannot disturb it, however many there are.

Source: arXiv 2211.11031 (GRACE: edits that are used only near their own inputs). Deviates: routed
by the words of the document's own questions, once for a text, and not by hidden states.
"""

import functools
from collections.abc import Sequence

from nestling.continual.study.material import Question
from nestling.continual.study.record import Studied
from nestling.continual.study.words import telling

DOCUMENTS = 3  # maximum number recited for a question
LEAST = 0.5  # of the best document's score
SAME = 0.6  # of the words of a subject


def concerned(text: str, studied: Sequence[Studied], most: int = DOCUMENTS) -> list[Studied]:
    """The documents that share most words with a text, best first, at most ``most``.

    A word counts less if more documents contain it. Documents that share no word, or score less
    than half as much as the best, are left out; of equal ones the latest is first.
    """
    there = set(telling(text)) if studied else set()
    shared = [there & _words_of(one) for one in studied]
    each = [sum(1 / sum(word in s for s in shared) for word in own) for own in shared]
    least = max(LEAST * max(each, default=0.0), 1e-9)
    order = sorted(range(len(studied)), key=lambda n: (-each[n], -n))
    return [studied[n] for n in order[:most] if each[n] >= least]


def _words_of(one: Studied) -> frozenset[str]:
    return _telling(one.about, one.questions)


@functools.lru_cache(maxsize=4096)
def _telling(about: str, questions: tuple[Question, ...]) -> frozenset[str]:
    told = [about, *(f"{q.question} {q.answer}" for q in questions)]
    return frozenset(telling(" ".join(told)))


def _subject(one: Studied) -> set[str]:
    every = {*telling(one.about), *one.topic} - {"letter"}
    return {word for word in every if not word.isdigit()}


def names(text: str, one: Studied) -> bool:
    """Whether a text has a word of the document's subject, or the document has no subject."""
    subject = _subject(one)
    return not subject or not subject.isdisjoint(telling(text))


def related(one: Studied, other: Studied) -> bool:
    """Whether one of two documents has most words of the other's subject."""
    return any(
        len(subject & there) >= SAME * len(subject) > 0
        for subject, there in (
            (_subject(one), _words_of(other)),
            (_subject(other), _words_of(one)),
        )
    )


def with_change_of(one: Studied, studied: Sequence[Studied]) -> tuple[Studied, ...]:
    """The documents whose changes are added to use one: itself.

    Changes of older memory files were studied on top of one another and are used together.
    """
    return (one,) if one.alone else tuple(other for other in studied if not other.alone)
