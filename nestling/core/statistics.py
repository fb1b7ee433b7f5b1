"""Means of few values with confidence intervals, and paired tests."""

import itertools
import math
import operator
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

SIGNS = 16  # the exact sign-flip test is computed for at most this many pairs
NOISE = 1e-12  # relative differences below this are rounding errors


class Interval(NamedTuple):
    """A mean and the half width of its 95 % interval; NaN if there are too few values.

    ``diverged`` counts the non-finite values, which are reported but not part of the mean.
    """

    mean: float
    half: float
    count: int  # finite values
    diverged: int = 0

    @property
    def every(self) -> int:
        """The number of values, including diverged ones."""
        return self.count + self.diverged

    @property
    def low(self) -> float:
        """The lower end of the interval."""
        return self.mean - self.half

    @property
    def high(self) -> float:
        """The upper end of the interval."""
        return self.mean + self.half

    def record(self) -> dict[str, Any]:
        """A JSON record; undefined numbers (no values, or the half width of one) are None."""
        mean, half = (None if math.isnan(x) else x for x in (self.mean, self.half))
        found = {"mean": mean, "half_width_95": half, "count": self.count}
        return found | ({"diverged": self.diverged} if self.diverged else {})

    def rank(self, *, larger_is_better: bool = False) -> tuple[float, float]:
        """A sort key, best first: any diverged value is worse than any mean.

        >>> interval([9.0, 9.1]).rank() < interval([1.0, math.inf]).rank()
        True
        """
        mean = -self.mean if larger_is_better else self.mean
        share = self.diverged / self.every if self.every else 1.0
        return share, math.inf if math.isnan(mean) else mean

    def __str__(self) -> str:
        if self.diverged and not self.count:
            return "diverged"
        text = _rounded(self.mean, 4)
        if not math.isnan(self.half):
            text += f" +/- {_rounded(self.half, 2)}"
        return text + (f" ({self.diverged} of {self.every} diverged)" if self.diverged else "")


def _rounded(value: float, digits: int) -> str:
    # to significant digits, but without an exponent below a million
    return f"{float(f'{value:.{digits}g}'):g}"


def interval_text(record: Mapping[str, Any] | None) -> str:
    """The record of an interval as text, "-" for None.

    >>> interval_text(interval([1.0, 2.0, math.nan]).record()), interval_text(None)
    ('1.5 +/- 6.4 (1 of 3 diverged)', '-')
    """
    if record is None:
        return "-"
    ends = (math.nan if record[key] is None else record[key] for key in ("mean", "half_width_95"))
    return str(Interval(*ends, record["count"], record.get("diverged", 0)))


def interval(values: Sequence[float]) -> Interval:
    """Student's t interval of the mean of the finite values.

    >>> print(interval([1.0, 2.0, 3.0]))
    2 +/- 2.5
    >>> print(interval([1.0]), interval([1.0, math.nan]), interval([math.inf]), sep=", ")
    1, 1 (1 of 2 diverged), diverged
    >>> print(interval([12000.0, 12050.0]))
    12020 +/- 320

    Values that differ only by rounding have no spread.

    >>> print(interval([0.35, 0.35, 0.35]), interval([0.1 + 0.2, 0.3]))
    0.35 +/- 0 0.3 +/- 0
    """
    diverged = sum(not math.isfinite(value) for value in values)
    values = [value for value in values if math.isfinite(value)]
    count = len(values)
    if count == 0:
        return Interval(math.nan, math.nan, 0, diverged)
    mean = sum(values) / count
    if count == 1:
        return Interval(mean, math.nan, 1, diverged)
    if max(values) - min(values) <= NOISE * max(map(abs, values)):
        return Interval(mean, 0.0, count, diverged)
    spread = math.sqrt(sum((value - mean) ** 2 for value in values) / (count - 1))
    return Interval(mean, t95(count - 1) * spread / math.sqrt(count), count, diverged)


def t_probability(t: float, freedom: int) -> float:
    """The two-sided tail probability of Student's t, for integer degrees of freedom from 1.

    Source: Abramowitz and Stegun, 26.7.3 and 26.7.4.

    >>> round(t_probability(4.303, 2), 4), round(t_probability(1.0, 1), 4)
    (0.05, 0.5)
    """
    if math.isnan(t):
        return math.nan
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
    """The two-sided 95 % quantile of Student's t.

    >>> round(t95(2), 3), round(t95(30), 3)
    (4.303, 2.042)
    """
    low, high = 1.0, 13.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if t_probability(middle, freedom) > 0.05 else (low, middle)
    return (low + high) / 2


class Paired(NamedTuple):
    """Differences of pairs: their mean with its interval, and two tests of whether it is zero.

    If one value of a pair diverged, the difference is infinite: it counts in the exact test and in
    ``worse`` or ``better``, but neither in the mean nor in Student's t.
    """

    difference: Interval
    p_t: float | None  # two-sided, Student's t; None for fewer than 2 pairs or diverged ones
    p_sign: float | None  # exact sign-flip test; None for no pairs or many
    worse: int = 0  # pairs of which only the first diverged
    better: int = 0  # pairs of which only the second diverged

    def record(self) -> dict[str, Any]:
        """A JSON record."""
        found = self.difference.record() | {"p_t": self.p_t, "p_sign": self.p_sign}
        wild = {"worse": self.worse, "better": self.better}
        return found | (wild if self.difference.diverged else {})

    def __str__(self) -> str:
        parts = [f"p = {self.p_t:.2g}"] if self.p_t is not None else []
        every = self.difference.every
        parts += [f"diverged in {self.worse} of {every}"] if self.worse else []
        parts += [f"the other diverged in {self.better} of {every}"] if self.better else []
        both = self.difference.diverged - self.worse - self.better
        parts += [f"both diverged in {both} of {every}"] if both else []
        mean = str(self.difference._replace(diverged=0)) if self.difference.count else "-"
        return mean + (f" ({'; '.join(parts)})" if parts else "")


def paired(
    one: Sequence[float], other: Sequence[float], *, larger_is_better: bool = False
) -> Paired:
    """Test ``one`` minus ``other``, in pairs (with the same seed, or of the same question).

    ``p_t`` assumes normal differences. ``p_sign`` only assumes that their signs are symmetric; with
    n pairs it is at least 2^(1-n), 0.25 for three seeds. A non-finite value (inf, -inf or NaN) is
    worse than any finite one. Raises ValueError if the numbers of values differ.

    >>> found = paired([3.0, 4.0, 5.5], [1.0, 1.5, 3.5])
    >>> print(found)
    2.167 +/- 0.72 (p = 0.0059)
    >>> found.p_sign
    0.25
    >>> print(paired([3.0, math.nan, math.inf], [2.0, 2.0, 2.0]))
    1 (diverged in 2 of 3)
    """
    if len(one) != len(other):
        raise ValueError(f"{len(one)} values and {len(other)} do not form pairs")
    worst = -math.inf if larger_is_better else math.inf
    gaps = [gap(a, b, worst) for a, b in zip(one, other, strict=True)]
    worse, better = gaps.count(worst), gaps.count(-worst)
    found = interval(gaps)
    p_sign = _flipped(gaps) if 1 < len(gaps) <= SIGNS else None
    if found.count < 2 or found.diverged:
        return Paired(found, None, p_sign, worse, better)
    error = found.half / t95(found.count - 1)
    if error == 0:
        p_t = 1.0 if found.mean == 0 else 0.0
    else:
        p_t = t_probability(found.mean / error, found.count - 1)
    return Paired(found, p_t, p_sign)


def gap(one: float, other: float, worst: float = math.inf) -> float:
    """``one - other``, or 0 if the difference is a rounding error.

    ``worst`` if only ``one`` diverged, ``-worst`` if only ``other`` did, NaN if both did.

    >>> gap(0.1 + 0.2, 0.3), gap(0.5, 0.25)
    (0.0, 0.25)
    >>> gap(math.inf, 1.0), gap(1.0, math.nan), gap(math.inf, math.nan)
    (inf, -inf, nan)
    """
    if not (math.isfinite(one) and math.isfinite(other)):
        both = math.isfinite(one) == math.isfinite(other)
        return math.nan if both else worst if math.isfinite(other) else -worst
    found = one - other
    return 0.0 if abs(found) <= NOISE * max(abs(one), abs(other)) else found


def _flipped(gaps: Sequence[float]) -> float:
    """The share of all sign flips whose sum is at least as far from zero as the observed one.

    An infinite gap outweighs all finite ones; a pair in which both diverged is left out.
    """
    told = [g for g in gaps if not math.isnan(g)]
    wild = [math.copysign(1, g) if math.isinf(g) else 0.0 for g in told]
    rest = [0.0 if math.isinf(g) else g for g in told]

    def far(signs: Sequence[int]) -> tuple[float, float]:
        first = sum(map(operator.mul, signs, wild), 0.0)
        second = sum(map(operator.mul, signs, rest), 0.0)
        return (abs(first), math.copysign(1, first) * second) if first else (0.0, abs(second))

    first, second = far([1] * len(told))
    own = first, second - NOISE * sum(map(abs, rest))
    flips = itertools.product((1, -1), repeat=len(told))
    return sum(far(signs) >= own for signs in flips) / 2 ** len(told)


def wilson(right: float | int, count: int) -> tuple[float, float]:
    """The ends of Wilson's 95 % interval of a share, which has a width even at 0 and 1.

    >>> low, high = wilson(10, 10)
    >>> round(low, 3), round(high, 3)
    (0.722, 1.0)
    """
    if not count:
        return math.nan, math.nan
    if not 0 <= right <= count:
        raise ValueError(f"{right} of {count} is not a share")
    z = 1.959964
    p = right / count
    middle = (p + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(p * (1 - p) / count + z * z / (4 * count**2))
    # exact at 0 and 1, despite rounding
    return (
        0.0 if right == 0 else max(0.0, middle - half),
        1.0 if right == count else min(1.0, middle + half),
    )


def holm(probabilities: Sequence[float]) -> list[float]:
    """The p-values of several tests, corrected for the family-wise error rate (Holm).

    Raises ValueError for values outside [0, 1] and NaN.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    if not all(0 <= p <= 1 for p in probabilities):
        raise ValueError(
            f"{list(probabilities)} are not all probabilities; give values from 0 to 1"
        )
    order = sorted(range(len(probabilities)), key=lambda i: probabilities[i])
    raised, least = [0.0] * len(order), 0.0
    for place, index in enumerate(order):
        least = max(least, min(1.0, (len(order) - place) * probabilities[index]))
        raised[index] = least
    return raised
