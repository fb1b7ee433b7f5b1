"""Real prose to hide sentences in, cut to a length."""

import itertools
import math
import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from random import Random

from nestling.core.error import UserError
from nestling.data import Corpus

PROSE = "anarchism"  # the corpus of the prose: long and English
_END = re.compile(r"(?<=[.!?])[\s]+(?=[\"'(A-Z])")


def sentences(text: str) -> list[str]:
    """Split a text into sentences, with whitespace collapsed.

    >>> sentences("It rains. Does it?\\n\\nYes, e.g. here.")
    ['It rains.', 'Does it?', 'Yes, e.g. here.']
    """
    return [" ".join(part.split()) for part in _END.split(text) if part.strip()]


class Haystack:
    """The sentences of a corpus from a random place on.

    Training seeds read the training documents, others the held-out ones. At its end the corpus
    starts again, so any length is possible.
    """

    def __init__(self, corpus: Callable[[], Corpus]):
        self.corpus = corpus

    @cached_property
    def trained(self) -> list[str]:
        """The sentences of the training documents."""
        return _all(self.corpus().documents)

    @cached_property
    def held_out(self) -> list[str]:
        """The sentences of the held-out documents."""
        return _all(self.corpus().held_out)

    def read(self, rng: Random, *, unseen: bool) -> Iterator[str]:
        """Yield sentences endlessly, from a random place on."""
        found = self.held_out if unseen else self.trained
        place = rng.randrange(len(found))
        while True:
            yield found[place % len(found)]
            place += 1


def _all(documents: Sequence[str]) -> list[str]:
    found = [sentence for document in documents for sentence in sentences(document)]
    if not found:
        raise UserError("the corpus for the prose has no sentences; give another one")
    return found


def insert(hidden: Sequence[str], among: Sequence[str], places: Sequence[float]) -> list[str]:
    """Insert ``hidden`` between the others, at the given shares of them; both keep their order.

    >>> insert(["A", "B"], ["x", "y", "z"], [1.0, 0.34])
    ['x', 'A', 'y', 'z', 'B']
    """
    cuts = [0, *sorted(round(place * len(among)) for place in places), len(among)]
    parts = [list(among[begin:end]) for begin, end in itertools.pairwise(cuts)]
    found = parts[0]
    for one, part in zip(hidden, parts[1:], strict=True):
        found += [one, *part]
    return found


NEAR = 0.99  # stop searching at this share of the length


def fitted(
    text: Callable[[list[str]], str],
    parts: Iterator[str],
    length: int,
    count: Callable[[str], int],
) -> str:
    """Build the text from as many of the parts, from the first on, as fit into a length.

    Their number is estimated from the count per character and corrected by the length of the
    result, until that is ``NEAR`` the limit or one more part would exceed it. Raises UserError if
    the text is too long without any part.
    """
    best = text([])
    frame, size = len(best), count(best)
    if size > length:
        raise UserError(f"length is {length}, too short for the facts; give at least {size}")
    ends = [0]  # characters of the first 0, 1, ... parts, with separators
    pool: list[str] = []
    least, most = 0, math.inf  # numbers of parts known to fit, and known not to
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
