"""Means of few seeds, with what they are worth."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

# Student's t, two-sided 95 %, by degrees of freedom from 1; beyond the table its last value, which
# errs on the wide side
T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179)


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
    """
    count = len(values)
    if count == 0:
        return Interval(math.nan, math.nan, 0)
    mean = sum(values) / count
    if count == 1:
        return Interval(mean, math.nan, 1)
    spread = math.sqrt(sum((value - mean) ** 2 for value in values) / (count - 1))
    t = T95[min(count - 1, len(T95)) - 1]
    return Interval(mean, t * spread / math.sqrt(count), count)
