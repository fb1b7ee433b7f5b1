"""Nested levels in training: a write of a slower level resets the next faster one to its start."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from nestling.core.error import UserError


class Starts:
    """The starts of the weights of nested groups: at first their values before the first step.

    At a restart, after the group's own write:

        start <- start + e (theta - start);  theta <- start;  the optimizer forgets theta's moments

    Source: arXiv 2512.24695, Eq 72, regime R2, with the step of arXiv 1803.02999 (Reptile) for the
    inner argmin. Deviates: e is given, not learned. Cost: one more copy of each weight of a nested
    group, float32 or wider.
    """

    def __init__(self):
        self.values: dict[Tensor, Tensor] = {}

    def keep(self, parameters: Iterable[Tensor]) -> None:
        """Store the weights as their starts, unless they have some."""
        for parameter in parameters:
            if parameter not in self.values:
                wide = torch.promote_types(parameter.dtype, torch.float32)
                self.values[parameter] = parameter.detach().to(wide, copy=True)

    def restart(self, parameters: Iterable[Tensor], share: float | int, inner: Optimizer) -> None:
        """Move the starts towards the weights by ``share``, then the weights to their starts."""
        for parameter in parameters:
            start = self.values[parameter]
            start.lerp_(parameter.detach().to(start.dtype), share)
            parameter.copy_(start)
            inner.state.pop(parameter, None)


def slower_periods(
    groups: Sequence[dict[str, Any]], steps: Sequence[int]
) -> list[float | int | None]:
    """For each group the period (tokens) of the next slower level, which resets it; None: never.

    ``steps`` are the groups' periods in steps. An invalid share or period raises UserError.

    >>> slower_periods([{}, {"period": 8, "share": 0.1}, {"period": 16}], [1, 1, 2])
    [None, 16, None]
    """
    lasts = {group.get("period", 0): count for group, count in zip(groups, steps, strict=True)}
    found: list[float | int | None] = []
    for group in groups:
        share, period = group.get("share"), group.get("period", 0)
        if share is None:
            found.append(None)
            continue
        if not 0 <= share <= 1:
            raise UserError(f"the share of a group is {share}; give a fraction from 0 to 1")
        slower = min((other for other in lasts if other > period), default=None)
        if slower is None:
            raise UserError(
                f"the group of period {period} is the slowest, so nothing resets it; leave out "
                "its share"
            )
        if lasts[slower] % lasts[period]:
            raise UserError(
                f"a nested level must be written when it is reset, but {lasts[period]} steps "
                f"(period {period}) do not divide {lasts[slower]} (period {slower}); change one"
            )
        found.append(slower)
    return found
