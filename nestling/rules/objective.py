"""Objectives of a write: the error of a memory's output, and its gradient.

Letters: y output of the memory, v its target.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from nestling.core.error import UserError, did_you_mean


class Objective(NamedTuple):
    """An objective: its value per output, and its gradient with respect to the output."""

    value: Callable[[Tensor, Tensor], Tensor]
    gradient: Callable[[Tensor, Tensor], Tensor]


def dot(y: Float[Tensor, "*N D"], v: Float[Tensor, "*N D"]) -> Float[Tensor, "*N"]:
    """-<y, v>: what a Hebbian write, gradient descent and momentum minimise (Eq 9, 34)."""
    return -(y * v).sum(-1)


def l2(y: Float[Tensor, "*N D"], v: Float[Tensor, "*N D"]) -> Float[Tensor, "*N"]:
    """|y - v|^2 / 2: what the delta rule minimises (Eq 48, 56)."""
    return (y - v).square().sum(-1) / 2


def huber(y: Float[Tensor, "*N D"], v: Float[Tensor, "*N D"]) -> Float[Tensor, "*N"]:
    """The sum of e^2 / 2 for errors up to 1, else |e| - 1/2, so that no gradient exceeds 1."""
    return torch.nn.functional.huber_loss(y, v, reduction="none").sum(-1)


# arXiv 2512.24695, Eq 9, 34, 48, 56; Huber after arXiv 2504.13173
OBJECTIVES: dict[str, Objective] = {
    "dot": Objective(dot, lambda y, v: -v),
    "l2": Objective(l2, lambda y, v: y - v),
    "huber": Objective(huber, lambda y, v: (y - v).clamp(-1, 1)),
}


def objective(name: str) -> Objective:
    """The objective of this name. Raises UserError if it is unknown.

    >>> y, v = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 0.0])
    >>> [(float(o.value(y, v)), o.gradient(y, v).tolist()) for o in map(objective, ("dot", "l2"))]
    [(-3.0, [-3.0, -0.0]), (4.0, [-2.0, 2.0])]
    """
    if name not in OBJECTIVES:
        raise UserError(f"unknown objective {name!r}: {did_you_mean(name, OBJECTIVES)}")
    return OBJECTIVES[name]
