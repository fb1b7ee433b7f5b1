"""Near-duplicates: held-out documents that a model has largely read in training."""

import re
from collections.abc import Iterable, Sequence
from zlib import crc32

import numpy as np

WORDS = 8  # words in a shingle
SHARE = 0.5  # a document with at least this share of known shingles is a near-duplicate

_WORD = re.compile(r"\w+")
_FACTORS = np.random.Generator(np.random.PCG64(0)).integers(
    1, 2**63, size=WORDS, dtype=np.uint64
) | np.uint64(1)


def shingles(text: str) -> np.ndarray:
    """The distinct hashes of every run of 8 words in a text, sorted (uint64).

    Case, punctuation and spacing are ignored. A text of fewer than 8 words is one shingle.
    """
    words = [crc32(word.encode()) for word in _WORD.findall(text.lower())]
    words += [0] * (WORDS - len(words))
    codes = np.array(words, dtype=np.uint64)
    count = len(codes) - WORDS + 1
    total = np.zeros(count, dtype=np.uint64)
    for place, factor in enumerate(_FACTORS):
        total += (codes[place : place + count] + np.uint64(1)) * factor  # wraps at 2**64
    return np.unique(total)


def near_duplicates(held_out: Sequence[str], train: Iterable[str]) -> list[int]:
    """Indices of the held-out documents of which half or more also occurs in training."""
    return contained([shingles(text) for text in held_out], map(shingles, train))


def contained(held_out: Sequence[np.ndarray], train: Iterable[np.ndarray]) -> list[int]:
    """``near_duplicates`` of documents given as their ``shingles``.

    Containment is measured against the training documents together: text copied from several of
    them counts like a copy of one. A document that is found counts as training from then on, and
    the others are checked again until no more are found.

    Cost: one pass over the training documents, none of which is kept; about 20 bytes of memory
    per held-out word.
    """
    if not len(held_out):
        return []
    known = np.unique(np.concatenate(held_out))
    places = [np.searchsorted(known, own) for own in held_out]
    seen = _seen(known, train)
    found: set[int] = set()
    while moved := [i for i, own in enumerate(places) if i not in found and _is_known(seen[own])]:
        found.update(moved)
        for index in moved:
            seen[places[index]] = True
    return sorted(found)


def overlap(held_out: Sequence[str], train: Iterable[str]) -> float:
    """The share of the distinct 8-word runs of held-out documents that occur in training.

    >>> rest = "and nobody came to see the ferry leave"
    >>> overlap(["The sea was high " + rest], ["It rained " + rest])
    0.2
    """
    if not held_out:
        return 0.0
    known = np.unique(np.concatenate([shingles(text) for text in held_out]))
    return float(_seen(known, map(shingles, train)).mean())


def _seen(known: np.ndarray, train: Iterable[np.ndarray]) -> np.ndarray:
    """Whether each of some sorted, distinct shingles occurs in training."""
    seen = np.zeros(len(known), dtype=bool)
    for other in train:
        place = np.searchsorted(known, other).clip(max=len(known) - 1)
        seen[place[known[place] == other]] = True
    return seen


def _is_known(seen: np.ndarray) -> bool:
    return bool(seen.mean() >= SHARE)
