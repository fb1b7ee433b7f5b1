"""Compare two memory files of one base: how far they have moved, and what they have read."""

import math
from typing import NamedTuple

import torch

from nestling.continual.file import MemoryFile
from nestling.continual.memory import check_alike, length, level_moved, level_name
from nestling.continual.study.change import Change, Factors
from nestling.continual.study.record import studied_of


class Difference(NamedTuple):
    """The difference of two memory files in one level, or in what they have studied."""

    level: str
    first: float  # norm of its movement in the first
    second: float
    between: float  # norm of the difference
    cosine: float  # of the angle between both; nan if one has not moved


def diff(first: MemoryFile, second: MemoryFile) -> list[Difference]:
    """Compare two memory files of one base, level by level."""
    check_alike([first, second])
    rows = []
    for index, record in enumerate(first.about["levels"]):
        a, b = level_moved(first, index), level_moved(second, index)
        product = sum(
            (float((a[name].double() * b[name].double()).sum()) for name in a if name in b), 0.0
        )
        rows.append(_difference(level_name(record), length(a), length(b), product))
    if any(memory.about.get("studied") for memory in (first, second)):
        a, b = taught(first), taught(second)
        lengths = (math.sqrt(max(inner(x, x), 0.0)) for x in (a, b))
        rows.append(_difference("study", *lengths, inner(a, b)))
    return rows


def _difference(name: str, one: float, two: float, product: float) -> Difference:
    """The difference of two vectors, given their lengths and inner product."""
    between = math.sqrt(max(one**2 + two**2 - 2 * product, 0.0))
    cosine = product / (one * two) if one and two else math.nan
    return Difference(name, one, two, between, cosine)


def taught(memory: MemoryFile) -> Change:
    """The change of each matrix by study, summed over documents."""
    found: Change = {}
    for number, record in enumerate(memory.about.get("studied", ())):
        for name, new in studied_of(number, record, memory.tensors).change.items():
            old = found.get(name)
            if old is not None:
                new = Factors(torch.cat([old.left, new.left], 1), torch.cat([old.right, new.right]))
            found[name] = new
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
