"""Words for the answers and comparisons of the pages of studies, shared by all studies."""

from collections.abc import Iterable, Mapping

from nestling.core.statistics import NOISE, Interval, Paired, holm, wilson

NOTHING = "Nothing has been run yet."
LEVEL = 0.05  # significance level
ALIKE = "n.s."
TESTED = (
    "In brackets: significantly higher or lower, or not significantly different (n.s.), at 5 %; "
    "paired t-test over {pairs}, p corrected for the number of comparisons (Holm)."
)


def listed(names: Iterable[str]) -> str:
    """Join names into a list for a sentence.

    >>> listed(["a"]), listed(["a", "b", "c"]), listed([])
    ('a', 'a, b and c', 'none')
    """
    *first, last = list(names) or ["none"]
    return f"{', '.join(first)} and {last}" if first else last


def corrected(tests: Mapping[str, Paired]) -> dict[str, float]:
    """The p-values of all tests that have one, corrected for their number (Holm)."""
    known = {name: p for name, test in tests.items() if (p := test.p_t) is not None}
    return dict(zip(known, holm(list(known.values())), strict=True))


def grouped(tests: Mapping[str, Paired]) -> tuple[list[str], list[str], list[str]]:
    """The names whose figures are above, below, and not significantly different, after Holm.

    ``tests`` are of their figure minus one's own. With diverged runs or too few seeds, nothing is
    significant.
    """
    sure = {name for name, p in corrected(tests).items() if p < LEVEL}
    above = [name for name in tests if name in sure and tests[name].difference.mean > 0]
    below = [name for name in tests if name in sure and name not in above]
    return above, below, [name for name in tests if name not in sure]


def outcomes(tests: Mapping[str, Paired]) -> dict[str, str]:
    """The outcome of every test that has one, for a table; ``TESTED`` says what it means."""
    above, below, _ = grouped(tests)
    words = {**dict.fromkeys(above, "higher"), **dict.fromkeys(below, "lower")}
    return {name: f"{words.get(name, ALIKE)}, p = {p:.2g}" for name, p in corrected(tests).items()}


def differences(tests: Mapping[str, Paired]) -> dict[str, str]:
    """Every difference with its interval and the outcome of its test, for a table.

    >>> from nestling.core.statistics import paired
    >>> tests = {"a": paired([3.0, 3.1, 2.9], [1.0, 1.1, 1.0]), "b": paired([1.0], [2.0])}
    >>> differences(tests)
    {'a': '+1.97 +/- 0.14 (higher, p = 0.00029)', 'b': '-1 (one pair)'}
    """
    told = {name: str(test) for name, test in tests.items()}
    for name, test in tests.items():
        if test.difference.every == test.difference.count == 1:
            told[name] = f"{test.difference.mean:+.3g} (one pair)"
    return told | {
        name: f"{signed(tests[name].difference)} ({outcome})"
        for name, outcome in outcomes(tests).items()
    }


def signed(found: Interval) -> str:
    """A difference with its sign and interval.

    >>> signed(Interval(0.25, 0.125, 3)), signed(Interval(-1e-18, 0.5, 3))
    ('+0.25 +/- 0.12', '+0 +/- 0.5')
    """
    mean = 0.0 if abs(found.mean) <= NOISE * found.half else found.mean
    return f"{mean:+.3g} +/- {found.half:.2g}"


def beside(tests: Mapping[str, Paired]) -> str:
    """How one's own figure compares with others; ``tests`` are of theirs minus one's own.

    >>> from nestling.core.statistics import paired
    >>> tests = {"a": paired([3.0, 3.1, 2.9], [1.0, 1.1, 1.0]), "b": paired([1.0], [2.0])}
    >>> beside(tests)
    'significantly lower than that of a, but not significantly different from that of b'
    """
    above, below, alike = grouped(tests)
    but = "but " if above or below else ""
    parts = [
        f"{words} that of {listed(names)}"
        for words, names in (
            ("significantly lower than", above),
            ("significantly higher than", below),
            (f"{but}not significantly different from", alike),
        )
        if names
    ]
    return ", ".join(parts) or "not compared yet"


def apart(one: Interval, other: Interval) -> bool:
    """Whether two intervals do not overlap; that of a single value overlaps with all."""
    return bool(one.low > other.high or one.high < other.low)


def counted(right: int, of: int) -> str:
    """How many of some are right, with the share and Wilson's interval, for a table.

    >>> counted(3, 4), counted(0, 0)
    ('3 of 4: 0.75 (0.30 to 0.95)', '-')
    """
    if not of:
        return "-"
    low, high = wilson(right, of)
    return f"{right} of {of}: {right / of:.2f} ({low:.2f} to {high:.2f})"


def share(value: float) -> str:
    """A share in whole percent, for a sentence.

    >>> share(0.0625)
    '6 %'
    """
    return f"{100 * value:.0f} %"
