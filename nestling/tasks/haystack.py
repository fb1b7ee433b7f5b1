"""Real prose around what a task hides in it, cut to a length."""

import re
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from itertools import pairwise
from random import Random

from nestling.core.error import UserError
from nestling.data import Corpus

PROSE = "anarchism"  # the corpus that prose is from: long and English
_END = re.compile(r"(?<=[.!?])[\s]+(?=[\"'(A-Z])")


def sentences(text: str) -> list[str]:
    """Sentences on one line each, blanks and line ends between words made one blank.

    >>> sentences("It rains. Does it?\\n\\nYes, e.g. here.")
    ['It rains.', 'Does it?', 'Yes, e.g. here.']
    """
    return [" ".join(part.split()) for part in _END.split(text) if part.strip()]


class Haystack:
    """The sentences of a corpus from a drawn place on, one part of it for each side of the seeds.

    Sentences are counted one by one, with the blank before each, when they are first used. When
    the corpus ends it begins anew, so any length can be had.
    """

    def __init__(self, corpus: Callable[[], Corpus], count: Callable[[str], int]):
        self.corpus, self.count = corpus, count
        self._sizes: dict[str, int] = {}

    @cached_property
    def trained(self) -> list[str]:
        """Sentences of the documents that may be trained on."""
        return _all(self.corpus().documents)

    @cached_property
    def held_out(self) -> list[str]:
        """Sentences of the documents held out of training."""
        return _all(self.corpus().held_out)

    def size(self, sentence: str) -> int:
        """The count of a sentence and the blank before it."""
        if sentence not in self._sizes:
            self._sizes[sentence] = self.count(" " + sentence)
        return self._sizes[sentence]

    def read(self, rng: Random, *, unseen: bool) -> Iterator[str]:
        """Sentence after sentence, without end."""
        found = self.held_out if unseen else self.trained
        place = rng.randrange(len(found))
        while True:
            yield found[place % len(found)]
            place += 1

    def draw(self, rng: Random, budget: int, *, unseen: bool) -> list[str]:
        """As many sentences in a row as ``budget`` holds."""
        return fill(self.read(rng, unseen=unseen), budget, self.size)


def _all(documents: Sequence[str]) -> list[str]:
    found = [sentence for document in documents for sentence in sentences(document)]
    if not found:
        raise UserError("the prose around the facts is empty; give a corpus with sentences")
    return found


def fill(parts: Iterator[str], budget: int, size: Callable[[str], int]) -> list[str]:
    """The first parts whose sizes add up to no more than ``budget``."""
    found: list[str] = []
    for part in parts:
        budget -= size(part)
        if budget < 0:
            break
        found.append(part)
    return found


def insert(hidden: Sequence[str], among: Sequence[str], places: Sequence[float]) -> list[str]:
    """``hidden`` between the others, at shares of their number; both keep their order.

    >>> insert(["A", "B"], ["x", "y", "z"], [1.0, 0.34])
    ['x', 'A', 'y', 'z', 'B']
    """
    cuts = [0, *sorted(round(place * len(among)) for place in places), len(among)]
    parts = [list(among[begin:end]) for begin, end in pairwise(cuts)]
    found = parts[0]
    for one, part in zip(hidden, parts[1:], strict=True):
        found += [one, *part]
    return found


def fitted(
    text: Callable[[list[str]], str],
    others: Sequence[str],
    length: int,
    count: Callable[[str], int],
) -> str:
    """The text around the first of the others, as many as keep it within a length.

    The others' own counts are near enough to begin with; what is too much is taken off.
    """
    others = list(others)
    while True:
        found = text(others)
        over = count(found) - length
        if over <= 0:
            return found
        if not others:
            raise UserError(f"length {length} does not hold the facts; raise it")
        mean = count(" ".join(others)) / len(others)
        others = others[: -max(1, int(over / mean))]
