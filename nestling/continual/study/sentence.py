"""A sentence as it is said by itself: it names what it is about."""

from nestling.continual.study.english import named
from nestling.continual.study.passages import Passage
from nestling.continual.study.statement import EARLY
from nestling.continual.study.words import words


def replies(passage: Passage) -> list[str]:
    """The sentences of a passage, each with the document's subject for a pronoun it begins with."""
    return [alone(sentence, passage.about) for sentence in passage.sentences]


def alone(sentence: str, about: str) -> str:
    """One sentence by itself.

    >>> alone("It leaks.", "the pump"), alone("In snow it stops.", "the pump")
    ('The pump leaks.', 'In snow the pump stops.')
    """
    if not words(about):
        return sentence
    found = named(sentence, about)
    if match := EARLY.match(sentence):
        found = f"{sentence[: match.start(2)]}{named(match[2], about)}"
    return found[:1].upper() + found[1:]
