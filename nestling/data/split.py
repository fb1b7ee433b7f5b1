"""The split of a source into training, held-out and dropped documents, in little memory.

A source is read twice. 16 bytes are kept per document, and for candidates to be held out also the
hashes of their words (``nestling.data.duplicates``).
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
    """Normalise a document: Unix line ends, no whitespace at line ends or around the text.

    >>> normalise("a  \\r\\nb\\n\\n")
    'a\\nb'
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return re.sub(r"[ \t]+$", "", text, flags=re.MULTILINE).strip("\n").rstrip()


def sides(read: Callable[[], Iterable[str]], share: float) -> np.ndarray:
    """The side of every text of ``read``, in order (uint8).

    Empty and repeated texts are dropped. The hash of a text decides whether it is held out, so the
    split needs no seed and does not change when other texts are added. Near-duplicates of training
    texts move to training. At least one text is held out, the one with the smallest hash; raises
    UserError if none can be.
    """
    digests, likely = _look(read(), share)
    known, first = np.unique(digests, return_index=True)
    first = np.sort(first[known != b""])  # first occurrence of each text
    if len(first) < 2:
        raise UserError(
            "the corpus is empty; give text with at least two paragraphs or lines"
            if not len(first)
            else "the corpus is one short document, perhaps repeated; give more text, or paragraphs"
        )
    draws = np.array([_draw(digests[place]) for place in first])
    aside = draws <= max(share, draws.min())
    aside[draws.argmax()] = False  # keep at least one to train on
    found = np.full(len(digests), DROPPED, dtype=np.uint8)
    found[first] = np.where(aside, ASIDE, TRAINED)
    drawn = np.flatnonzero(found == ASIDE)
    trained = (text for text, side in with_sides(read(), found.copy()) if side == TRAINED)
    for index in contained([likely[place] for place in drawn], map(shingles, trained)):
        found[drawn[index]] = TRAINED
    if not (found == ASIDE).any():
        raise UserError(
            "every document that could be held out is a near-duplicate of the training text; "
            "give text with less repetition"
        )
    return found


def with_sides(texts: Iterable[str], found: np.ndarray) -> Iterator[tuple[str, int]]:
    """Yield every text, normalised, with its side. Raises UserError if their numbers differ."""
    for text, side in zip_longest(map(normalise, texts), found):
        if text is None or side is None:
            raise UserError("the text changed while it was being read; run the command again")
        yield text, int(side)


def _look(texts: Iterable[str], share: float) -> tuple[np.ndarray, dict[int, np.ndarray]]:
    """The digest of every text (empty: b""), and the shingles of those that may be held out."""
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
    """A number in [0, 1) that depends on the document alone."""
    return int.from_bytes(digest[:7].ljust(7, b"\0"), "big") / 2**56
