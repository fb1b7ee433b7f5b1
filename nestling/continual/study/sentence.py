"""Makes sentences self-contained: they name their subject."""

from nestling.continual.study.english import named
from nestling.continual.study.passages import Passage
from nestling.continual.study.pronouns import EARLY
from nestling.continual.study.words import words


def replies(passage: Passage) -> list[str]:
    """The sentences of a passage; an initial pronoun that means its subject is replaced by it."""
    return [alone(*one) for one in zip(passage.sentences, passage.subjects, strict=True)]


def alone(sentence: str, about: str) -> str:
    """Replace an initial pronoun by the subject.

    >>> alone("It leaks.", "the pump"), alone("In snow it stops.", "the pump")
    ('The pump leaks.', 'In snow the pump stops.')
    """
    if not words(about):
        return sentence
    found = named(sentence, about)
    if match := EARLY.match(sentence):
        found = f"{sentence[: match.start(2)]}{named(match[2], about)}"
    return found[:1].upper() + found[1:]
