"""Compare two memory files of one base: how far they have moved, and what they have read."""

import math
from typing import NamedTuple

from nestling.continual.file import MemoryFile
from nestling.continual.memory import check_alike, length, level_moved, level_name
from nestling.continual.study.change import Change
from nestling.continual.study.record import studied_of

NOTHING: tuple[str, Change] = "", {}


class Difference(NamedTuple):
    """The difference of two memory files in one level, or in the change by one document."""

    level: str  # or the document
    first: float  # norm of its movement in the first
    second: float
    between: float  # norm of the difference
    cosine: float  # of the angle between both; nan if one has not moved


def diff(first: MemoryFile, second: MemoryFile) -> list[Difference]:
    """Compare two memory files of one base, level by level and document by document."""
    check_alike([first, second])
    rows = []
    for index, record in enumerate(first.about["levels"]):
        a, b = level_moved(first, index), level_moved(second, index)
        product = sum(
            (float((a[name].double() * b[name].double()).sum()) for name in a if name in b), 0.0
        )
        rows.append(_difference(level_name(record), length(a), length(b), product))
    a, b = changes(first), changes(second)
    for key in dict.fromkeys([*a, *b]):
        (name, one), (other, two) = (own.get(key, NOTHING) for own in (a, b))
        lengths = (math.sqrt(max(inner(x, x), 0.0)) for x in (one, two))
        rows.append(_difference(f"study of {name or other}", *lengths, inner(one, two)))
    return rows


def _difference(name: str, one: float, two: float, product: float) -> Difference:
    """The difference of two vectors, given their lengths and inner product."""
    between = math.sqrt(max(one**2 + two**2 - 2 * product, 0.0))
    cosine = product / (one * two) if one and two else math.nan
    return Difference(name, one, two, between, cosine)


def changes(memory: MemoryFile) -> dict[tuple[str, bool], tuple[str, Change]]:
    """The name and the change of each studied document, by its checksum and ``alone``.

    A text that an older version studied on top of others may be there once more, studied alone.
    """
    found = {}
    for number, record in enumerate(memory.about.get("studied", ())):
        one = studied_of(number, record, memory.tensors)
        found[one.sha256, one.alone] = one.label, one.change
    return found


def inner(first: Change, second: Change) -> float:
    """The inner product of two changes: the sum over matrices of ``tr(A^T B)``.

    Neither product is formed: ``tr((L R)^T M S) = sum((L^T M) * (R S^T))``.
    """
    total = 0.0
    for name in first.keys() & second.keys():
        (left, right), (other, across) = (
            tuple(x.double() for x in change[name]) for change in (first, second)
        )
        total += float(((left.T @ other) * (right @ across.T)).sum())
    return total


def documents_apart(first: MemoryFile, second: MemoryFile) -> tuple[list[str], list[str]]:
    """The names of documents that only the first has read, and those only the second has."""

    def only(one: MemoryFile, other: MemoryFile) -> list[str]:
        there = {digest for _, digest, _, _ in other.about["documents"]}
        return [name or "-" for name, digest, _, _ in one.about["documents"] if digest not in there]

    return only(first, second), only(second, first)
