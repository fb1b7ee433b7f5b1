"""Means of few values, with what they are worth; differences of pairs, with how surprising."""

import itertools
import math
import operator
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

SIGNS = 16  # pairs up to which all ways to flip signs are counted
NOISE = 1e-12  # of a value: differences below are its rounding, not a spread


class Interval(NamedTuple):
    """A mean and half the width of its 95 % interval; NaN where there are too few values.

    ``diverged`` values were no finite numbers: they are counted, shown, and in no mean.
    """

    mean: float
    half: float
    count: int  # finite values
    diverged: int = 0

    @property
    def every(self) -> int:
        """Values in all, those that diverged among them."""
        return self.count + self.diverged

    @property
    def low(self) -> float:
        """Lower end."""
        return self.mean - self.half

    @property
    def high(self) -> float:
        """Upper end."""
        return self.mean + self.half

    def record(self) -> dict[str, Any]:
        """As JSON; a mean without values, or the half width of one value, is None."""
        mean, half = (None if math.isnan(x) else x for x in (self.mean, self.half))
        found = {"mean": mean, "half_width_95": half, "count": self.count}
        return found | ({"diverged": self.diverged} if self.diverged else {})

    def rank(self, *, larger_is_better: bool = False) -> tuple[float, float]:
        """To sort by, the best first: any diverged value is worse than any mean.

        >>> interval([9.0, 9.1]).rank() < interval([1.0, math.inf]).rank()
        True
        """
        mean = -self.mean if larger_is_better else self.mean
        share = self.diverged / self.every if self.every else 1.0
        return share, math.inf if math.isnan(mean) else mean

    def __str__(self) -> str:
        if self.diverged and not self.count:
            return "diverged"
        text = f"{self.mean:.4g}"
        if not math.isnan(self.half):
            text += f" +/- {self.half:.2g}"
        return text + (f" ({self.diverged} of {self.every} diverged)" if self.diverged else "")


def interval_text(record: Mapping[str, Any] | None) -> str:
    """An interval's record in words, "-" for none.

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

    Values that differ by their rounding alone have no spread.

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
    """The probability that Student's t lies beyond +-t, for whole degrees of freedom from 1.

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
    """Differences of pairs: their mean with its interval, and two tests that it is zero.

    Where one of a pair diverged the difference is infinite: it is in neither the mean nor
    Student's t, but in the exact test, and in ``worse`` and ``better``.
    """

    difference: Interval
    p_t: float | None  # two-sided, Student's t; None for under two pairs, or any that diverged
    p_sign: float | None  # exact, over all ways to flip the signs; None for many pairs or none
    worse: int = 0  # pairs of which only the one diverged
    better: int = 0  # pairs of which only the other did

    def record(self) -> dict[str, Any]:
        """As JSON."""
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
    """The test of ``one`` minus ``other``, pair by pair (of one seed, of one question).

    ``p_t`` takes the differences as normal; ``p_sign`` takes only their signs as chance, and with n
    pairs cannot be below 2^(1-n): 0.25 for three seeds. A non-finite value is worse
    than every other, whichever of inf, -inf and NaN it is.

    >>> found = paired([3.0, 4.0, 5.5], [1.0, 1.5, 3.5])
    >>> print(found)
    2.167 +/- 0.72 (p = 0.0059)
    >>> found.p_sign
    0.25
    >>> print(paired([3.0, math.nan, math.inf], [2.0, 2.0, 2.0]))
    1 (diverged in 2 of 3)
    """
    if len(one) != len(other):
        raise ValueError(f"{len(one)} values and {len(other)}: no pairs")
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
    """Their difference, 0 where it is but their rounding.

    ``worst`` where only one diverged, ``-worst`` where only the other did, NaN where both did.

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
    """The share of all ways to flip signs whose sum is as far from zero as the one found.

    An infinite gap outweighs all finite ones together; a pair that diverged in both says nothing.
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
    """Ends of Wilson's 95 % interval of a share, which is not empty where all or none are right.

    >>> low, high = wilson(10, 10)
    >>> round(low, 3), round(high, 3)
    (0.722, 1.0)
    """
    if not count:
        return math.nan, math.nan
    if not 0 <= right <= count:
        raise ValueError(f"{right} of {count}: no share")
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

    Raises ValueError for what is no probability: one NaN would decide over all others.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    if not all(0 <= p <= 1 for p in probabilities):
        raise ValueError(f"no probabilities: {list(probabilities)}")
    order = sorted(range(len(probabilities)), key=lambda i: probabilities[i])
    raised, least = [0.0] * len(order), 0.0
    for place, index in enumerate(order):
        least = max(least, min(1.0, (len(order) - place) * probabilities[index]))
        raised[index] = least
    return raised
