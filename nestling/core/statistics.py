"""Means of few values, with what they are worth; differences of pairs, with how surprising."""

import itertools
import math
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

SIGNS = 16  # pairs up to which all ways to flip signs are counted
NOISE = 1e-12  # of a value: differences below are its rounding, not a spread


class Interval(NamedTuple):
    """A mean and half the width of its 95 % interval; NaN where there are too few values."""

    mean: float
    half: float
    count: int

    @property
    def low(self) -> float:
        """Lower end."""
        return self.mean - self.half

    @property
    def high(self) -> float:
        """Upper end."""
        return self.mean + self.half

    def record(self) -> dict[str, Any]:
        """As JSON; a half width that one value cannot give is None."""
        half = None if math.isnan(self.half) else self.half
        return {"mean": self.mean, "half_width_95": half, "count": self.count}

    def __str__(self) -> str:
        return (
            f"{self.mean:.4g}" if math.isnan(self.half) else f"{self.mean:.4g} +/- {self.half:.2g}"
        )


def interval(values: Sequence[float]) -> Interval:
    """Student's t interval of the mean.

    >>> print(interval([1.0, 2.0, 3.0]))
    2 +/- 2.5
    >>> print(interval([1.0]))
    1

    Values that differ by their rounding alone have no spread.

    >>> print(interval([0.35, 0.35, 0.35]), interval([0.1 + 0.2, 0.3]))
    0.35 +/- 0 0.3 +/- 0
    """
    count = len(values)
    if count == 0:
        return Interval(math.nan, math.nan, 0)
    mean = sum(values) / count
    if count == 1:
        return Interval(mean, math.nan, 1)
    if max(values) - min(values) <= NOISE * max(map(abs, values)):
        return Interval(mean, 0.0, count)
    spread = math.sqrt(sum((value - mean) ** 2 for value in values) / (count - 1))
    return Interval(mean, t95(count - 1) * spread / math.sqrt(count), count)


def t_probability(t: float, freedom: int) -> float:
    """The probability that Student's t lies beyond +-t, for whole degrees of freedom from 1.

    Source: Abramowitz and Stegun, 26.7.3 and 26.7.4.

    >>> round(t_probability(4.303, 2), 4), round(t_probability(1.0, 1), 4)
    (0.05, 0.5)
    """
    angle = math.atan(abs(t) / math.sqrt(freedom))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = freedom % 2
    term = cosine if odd else 1.0
    total = 0.0
    for k in range(1 + odd, freedom, 2):
        total += term
        term *= cosine**2 * k / (k + 1)
    inside = sine * total if not odd else 2 / math.pi * (angle + sine * total)
    return min(1.0, max(0.0, 1.0 - inside))


@cache
def t95(freedom: int) -> float:
    """Student's t, two-sided 95 %.

    >>> round(t95(2), 3), round(t95(30), 3)
    (4.303, 2.042)
    """
    low, high = 1.0, 13.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if t_probability(middle, freedom) > 0.05 else (low, middle)
    return (low + high) / 2


class Paired(NamedTuple):
    """Differences of pairs: their mean with its interval, and two tests that it is zero."""

    difference: Interval
    p_t: float | None  # two-sided, Student's t; None for fewer than two pairs
    p_sign: float | None  # exact, over all ways to flip the signs; None for many pairs or none

    def record(self) -> dict[str, Any]:
        """As JSON."""
        return self.difference.record() | {"p_t": self.p_t, "p_sign": self.p_sign}

    def __str__(self) -> str:
        return f"{self.difference}" + ("" if self.p_t is None else f" (p = {self.p_t:.2g})")


def paired(one: Sequence[float], other: Sequence[float]) -> Paired:
    """The test of ``one`` minus ``other``, pair by pair (of one seed, of one question).

    ``p_t`` takes the differences as normal; ``p_sign`` takes only their signs as chance, and with n
    pairs cannot be below 2^(1-n): 0.25 for three seeds.

    >>> found = paired([3.0, 4.0, 5.5], [1.0, 1.5, 3.5])
    >>> print(found)
    2.167 +/- 0.72 (p = 0.0059)
    >>> found.p_sign
    0.25
    """
    if len(one) != len(other):
        raise ValueError(f"{len(one)} values and {len(other)}: no pairs")
    gaps = [gap(a, b) for a, b in zip(one, other, strict=True)]
    found = interval(gaps)
    if len(gaps) < 2:
        return Paired(found, None, None)
    error = found.half / t95(len(gaps) - 1)
    if error == 0:
        p_t = 1.0 if found.mean == 0 else 0.0
    else:
        p_t = t_probability(found.mean / error, len(gaps) - 1)
    return Paired(found, p_t, _flipped(gaps) if len(gaps) <= SIGNS else None)


def gap(one: float, other: float) -> float:
    """Their difference, 0 where it is but their rounding.

    >>> gap(0.1 + 0.2, 0.3), gap(0.5, 0.25)
    (0.0, 0.25)
    """
    found = one - other
    return 0.0 if abs(found) <= NOISE * max(abs(one), abs(other)) else found


def _flipped(gaps: Sequence[float]) -> float:
    """The share of all ways to flip signs whose sum is as far from zero as the one found."""
    own = abs(sum(gaps)) * (1 - NOISE)
    sums = (
        sum(sign * one for sign, one in zip(signs, gaps, strict=True))
        for signs in itertools.product((1, -1), repeat=len(gaps))
    )
    return sum(abs(total) >= own for total in sums) / 2 ** len(gaps)


def wilson(right: float | int, count: int) -> tuple[float, float]:
    """Ends of Wilson's 95 % interval of a share, which is not empty where all or none are right.

    >>> low, high = wilson(10, 10)
    >>> round(low, 3), round(high, 3)
    (0.722, 1.0)
    """
    if not count:
        return math.nan, math.nan
    z = 1.959964
    p = right / count
    middle = (p + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(p * (1 - p) / count + z * z / (4 * count**2))
    # exact where none or all are right, whatever the rounding
    return (
        0.0 if right == 0 else max(0.0, middle - half),
        1.0 if right == count else min(1.0, middle + half),
    )


def holm(probabilities: Sequence[float]) -> list[float]:
    """Probabilities of several tests, raised so that one in twenty families errs (Holm).

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = sorted(range(len(probabilities)), key=lambda i: probabilities[i])
    raised, least = [0.0] * len(order), 0.0
    for place, index in enumerate(order):
        least = max(least, min(1.0, (len(order) - place) * probabilities[index]))
        raised[index] = least
    return raised
