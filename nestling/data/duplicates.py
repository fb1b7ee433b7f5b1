"""Which held-out documents a model has in part already read in training."""

import re
from collections.abc import Sequence
from zlib import crc32

import numpy as np

WORDS = 8  # words in a shingle
SHARE = 0.5  # share of known shingles from which a document counts as a near-duplicate

_WORD = re.compile(r"\w+")
_FACTORS = np.random.Generator(np.random.PCG64(0)).integers(
    1, 2**63, size=WORDS, dtype=np.uint64
) | np.uint64(1)


def shingles(text: str) -> np.ndarray:
    """Hashes of every run of 8 words in a text, each once and sorted (uint64).

    Case, punctuation and spacing do not count. A text of fewer words is one shingle.
    """
    words = [crc32(word.encode()) for word in _WORD.findall(text.lower())]
    words += [0] * (WORDS - len(words))
    codes = np.array(words, dtype=np.uint64)
    count = len(codes) - WORDS + 1
    total = np.zeros(count, dtype=np.uint64)
    for place, factor in enumerate(_FACTORS):
        total += (codes[place : place + count] + np.uint64(1)) * factor  # wraps at 2**64
    return np.unique(total)


def _inside(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    if not len(known):
        return np.zeros(len(values), dtype=bool)
    place = np.searchsorted(known, values).clip(max=len(known) - 1)
    return known[place] == values


def near_duplicates(held_out: Sequence[str], train: Sequence[str]) -> list[int]:
    """Indices of the held-out documents of which half or more also stands in training.

    Containment is measured against all of training together, so that a part copied from several
    documents counts as well as a copy of one. A document found is thought of as moved to
    training, and the others are looked at again until none is found.

    Cost: one pass over the text; memory 8 bytes a word of training.
    """
    hashes = [shingles(text) for text in held_out]
    empty = np.empty(0, dtype=np.uint64)
    fresh = np.unique(np.concatenate([empty, *(shingles(text) for text in train)]))
    seen = [np.zeros(len(own), dtype=bool) for own in hashes]
    found: set[int] = set()
    while len(fresh):
        moved = []
        for index, own in enumerate(hashes):
            if index in found:
                continue
            seen[index] |= _inside(own, fresh)
            if seen[index].mean() >= SHARE:
                moved.append(index)
        found.update(moved)
        fresh = np.unique(np.concatenate([empty, *(hashes[index] for index in moved)]))
    return sorted(found)
