"""Real prose around what a task hides in it, cut to a length."""

import itertools
import math
import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
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

    When the corpus ends it begins anew, so any length can be had.
    """

    def __init__(self, corpus: Callable[[], Corpus]):
        self.corpus = corpus

    @cached_property
    def trained(self) -> list[str]:
        """Sentences of the documents that may be trained on."""
        return _all(self.corpus().documents)

    @cached_property
    def held_out(self) -> list[str]:
        """Sentences of the documents held out of training."""
        return _all(self.corpus().held_out)

    def read(self, rng: Random, *, unseen: bool) -> Iterator[str]:
        """Sentence after sentence, without end."""
        found = self.held_out if unseen else self.trained
        place = rng.randrange(len(found))
        while True:
            yield found[place % len(found)]
            place += 1


def _all(documents: Sequence[str]) -> list[str]:
    found = [sentence for document in documents for sentence in sentences(document)]
    if not found:
        raise UserError("the prose around the facts is empty; give a corpus with sentences")
    return found


def insert(hidden: Sequence[str], among: Sequence[str], places: Sequence[float]) -> list[str]:
    """``hidden`` between the others, at shares of their number; both keep their order.

    >>> insert(["A", "B"], ["x", "y", "z"], [1.0, 0.34])
    ['x', 'A', 'y', 'z', 'B']
    """
    cuts = [0, *sorted(round(place * len(among)) for place in places), len(among)]
    parts = [list(among[begin:end]) for begin, end in itertools.pairwise(cuts)]
    found = parts[0]
    for one, part in zip(hidden, parts[1:], strict=True):
        found += [one, *part]
    return found


NEAR = 0.99  # share of a length that is near enough to it


def fitted(
    text: Callable[[list[str]], str],
    parts: Iterator[str],
    length: int,
    count: Callable[[str], int],
) -> str:
    """The text with as many of the parts, from the first on, as keep it within a length.

    How many that are is guessed from how much of the count a character makes, and guessed again
    from how long the text came out, until it is ``NEAR`` or one part more would be too much.
    """
    best = text([])
    frame, size = len(best), count(best)
    if size > length:
        raise UserError(f"length {length} does not hold the facts (they need {size}); raise it")
    ends = [0]  # characters of the first 0, 1, ... parts, with one between
    pool: list[str] = []
    least, most = 0, math.inf  # numbers of parts that fit, and that do not
    share = size / frame if frame else 0.25
    while most - least > 1:
        wanted = length / share - frame
        while ends[-1] <= wanted:
            pool.append(next(parts))
            ends.append(ends[-1] + len(pool[-1]) + 1)
        number = int(max(least + 1, min(bisect_right(ends, wanted) - 1, most - 1)))
        found = text(pool[:number])
        size = count(found)
        share = size / len(found)
        if size > length:
            most = number
            continue
        least, best = number, found
        if size >= NEAR * length:
            break
    return best
