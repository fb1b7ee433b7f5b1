"""Words for the sentences that answer the question of a study, shared by all studies."""

from collections.abc import Iterable, Mapping

from nestling.core.statistics import Interval, Paired, holm

NOTHING = "Nothing has been run yet."
LEVEL = 0.05  # significance level


def listed(names: Iterable[str]) -> str:
    """Join names into a list for a sentence.

    >>> listed(["a"]), listed(["a", "b", "c"]), listed([])
    ('a', 'a, b and c', 'none')
    """
    *first, last = list(names) or ["none"]
    return f"{', '.join(first)} and {last}" if first else last


def grouped(tests: Mapping[str, Paired]) -> tuple[list[str], list[str], list[str]]:
    """The names whose figures are above, below, and not significantly different, after Holm.

    ``tests`` are of their figure minus one's own. With diverged runs or too few seeds, nothing is
    significant.
    """
    known = {name: p for name, test in tests.items() if (p := test.p_t) is not None}
    raised = dict(zip(known, holm(list(known.values())), strict=True))
    sure = {name for name, p in raised.items() if p < LEVEL}
    above = [name for name in tests if name in sure and tests[name].difference.mean > 0]
    below = [name for name in tests if name in sure and name not in above]
    return above, below, [name for name in tests if name not in sure]


def beside(tests: Mapping[str, Paired], *, lower: str = "lower", higher: str = "higher") -> str:
    """How one's own figure compares with others; ``tests`` are of theirs minus one's own.

    >>> from nestling.core.statistics import paired
    >>> tests = {"a": paired([3.0, 3.1, 2.9], [1.0, 1.1, 1.0]), "b": paired([1.0], [2.0])}
    >>> beside(tests)
    'lower than that of a; not told apart from that of b'
    """
    above, below, alike = grouped(tests)
    parts = [
        f"{words} that of {listed(names)}"
        for words, names in (
            (f"{lower} than", above),
            (f"{higher} than", below),
            ("not told apart from", alike),
        )
        if names
    ]
    return "; ".join(parts) or "not compared yet"


def apart(one: Interval, other: Interval) -> bool:
    """Whether two intervals do not overlap; that of a single value overlaps with all."""
    return bool(one.low > other.high or one.high < other.low)
