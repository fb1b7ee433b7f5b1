"""What of a source is trained on, held out and left out, decided without keeping it in memory.

A source is read twice. What is kept of a document is 16 bytes, and of one that may be held out the
hashes of its words (``nestling.data.duplicates``).
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator
from itertools import zip_longest

import numpy as np

from nestling.core.error import UserError
from nestling.data.duplicates import contained, shingles

DROPPED, TRAINED, ASIDE = 0, 1, 2  # sides


def normalise(text: str) -> str:
    """A document as it is trained on: Unix line ends, no blanks at line ends or around.

    >>> normalise("a  \\r\\nb\\n\\n")
    'a\\nb'
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return re.sub(r"[ \t]+$", "", text, flags=re.MULTILINE).strip("\n").rstrip()


def sides(read: Callable[[], Iterable[str]], share: float) -> np.ndarray:
    """For every text of ``read``, in its order, its side (uint8).

    Empty and repeated texts are dropped. The hash of a text decides whether it is held out: no
    seed, and the same when others are added. What is half or more contained in training is trained
    on. At least one text is held out, the one of least hash. UserError where that cannot be.
    """
    digests, likely = _look(read(), share)
    known, first = np.unique(digests, return_index=True)
    first = np.sort(first[known != b""])  # of each text the first place
    if len(first) < 2:
        raise UserError(
            "the corpus is empty; give text with at least two paragraphs or lines"
            if not len(first)
            else "the corpus is one short document, maybe repeated; give more text, or paragraphs"
        )
    draws = np.array([_draw(digests[place]) for place in first])
    aside = draws <= max(share, draws.min())
    aside[draws.argmax()] = False  # something is left to train on
    found = np.full(len(digests), DROPPED, dtype=np.uint8)
    found[first] = np.where(aside, ASIDE, TRAINED)
    drawn = np.flatnonzero(found == ASIDE)
    trained = (text for text, side in with_sides(read(), found.copy()) if side == TRAINED)
    for index in contained([likely[place] for place in drawn], map(shingles, trained)):
        found[drawn[index]] = TRAINED
    if not (found == ASIDE).any():
        raise UserError(
            "every document that could be held out repeats the training text; give text "
            "that repeats itself less"
        )
    return found


def with_sides(texts: Iterable[str], found: np.ndarray) -> Iterator[tuple[str, int]]:
    """Every text, normalised, with its side; UserError where there are not as many of both."""
    for text, side in zip_longest(map(normalise, texts), found):
        if text is None or side is None:
            raise UserError("the text has changed while it was read; run the command again")
        yield text, int(side)


def _look(texts: Iterable[str], share: float) -> tuple[np.ndarray, dict[int, np.ndarray]]:
    """A digest of every text (empty: b""), and the shingles of those that may be held out."""
    digests, likely, least = bytearray(), {}, 1.0
    for place, text in enumerate(map(normalise, texts)):
        digest = hashlib.sha256(text.encode()).digest()[:16] if text else bytes(16)
        digests += digest
        if text and (_draw(digest) <= share or _draw(digest) < least):
            likely[place] = shingles(text)
        if text:
            least = min(least, _draw(digest))
    return np.frombuffer(bytes(digests), dtype="S16"), likely


def _draw(digest: bytes) -> float:
    """A number in [0, 1) that only the document decides."""
    return int.from_bytes(digest[:7].ljust(7, b"\0"), "big") / 2**56
