"""The order of a nested system: which boxes are faster than others (Nested Learning, Def 2)."""

from collections.abc import Iterable, Sequence

from nestling.core.level import Level


def order(levels: Iterable[Level]) -> list[list[Level]]:
    """Sort boxes into the levels of a nested system, fast to slow.

    A is faster than B if its frequency is higher, or if it is equal and the new state of B depends
    on that of A (``B.depends_on``). Boxes share a level if neither is faster: they have the same
    period and the same distance from the first of their chain.

    Source: arXiv 2512.24695, Def 2 and 3. Deviates: nothing.

    >>> boxes = [Level(name="W", period=8, depends_on=("m", "v")), Level(name="v", period=8),
    ...          Level(name="attention", period=0), Level(name="m", period=8)]
    >>> [[box.name for box in level] for level in order(boxes)]
    [['attention'], ['v', 'm'], ['W']]
    """
    boxes = list(levels)
    found: dict[tuple[float | int, int], list[Level]] = {}
    for box in boxes:
        found.setdefault((box.period, depth(box, boxes)), []).append(box)
    return [found[key] for key in sorted(found)]


def depth(box: Level, boxes: Sequence[Level], above: tuple[str, ...] = ()) -> int:
    """The length of the longest chain of boxes of the same period to write before this one.

    Raises ValueError for cyclic dependencies.
    """
    if box.name in above:
        raise ValueError(f"levels have cyclic dependencies: {' -> '.join(above)}")
    needs = [b for b in boxes if b.name in box.depends_on and b.period == box.period]
    return max((1 + depth(need, boxes, (*above, box.name)) for need in needs), default=0)
