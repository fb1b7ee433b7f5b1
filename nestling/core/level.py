"""Levels: the clocks of a nested system (Nested Learning, Def 2-4)."""

import math
from dataclasses import dataclass

from nestling.core.transfer import Transfer


@dataclass(frozen=True, kw_only=True)
class Level:
    """One box of a nested system: something that is written once per period.

    A level is written every ``period`` tokens; its frequency is ``1 / period`` (Def 2: the number
    of updates per unit of time, here one token). ``period = 0`` is attention: non-parametric, with
    infinite frequency. ``period = math.inf`` is frozen: frequency 0.

    Source: arXiv 2512.24695, Def 2-4. Deviates: the index of a level has no meaning (the paper
    numbers levels in both directions); lists are sorted by period, fast to slow.
    """

    name: str
    period: int | float  # tokens between two writes
    parameters: int = 0  # numbers in the level (per sequence if per_sequence)
    per_sequence: bool = False  # True: every sequence has its own values, dropped at its end
    objective: str = ""  # what a write minimises
    rule: str = ""  # the rule of a write
    context: str = ""  # the context flow: the key-value pairs it is written from
    transfer: tuple[Transfer, ...] = ()  # how knowledge moves between this box and others
    depends_on: tuple[str, ...] = ()  # names of levels whose new state is needed to write this one

    @property
    def frequency(self) -> float:
        """Writes per token."""
        if self.period == 0:
            return math.inf
        return 0.0 if math.isinf(self.period) else 1.0 / self.period


def fires(period: int, count: int) -> bool:
    """Whether a level of this period is written once ``count`` tokens have been seen.

    >>> [count for count in range(1, 9) if fires(4, count)]
    [4, 8]
    """
    return count > 0 and count % period == 0
