"""A preconditioner of the gradients that enter a momentum: P = (E G G^T)^(-1/2)."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from nestling.core.error import UserError
from nestling.core.native import plain
from nestling.optim.base import at_least, check_choice, fraction, wide_dtype

PRECONDITIONERS = ("none", "covariance")


def options(
    *,
    preconditioner: str,
    preconditioner_beta: float | int,
    preconditioner_every: int,
    eps: float | int,
) -> dict[str, Any]:
    """The options of a group's preconditioner; values that cannot be raise UserError."""
    check_choice("preconditioner", preconditioner, PRECONDITIONERS)
    fraction(preconditioner_beta=preconditioner_beta)
    at_least(1, preconditioner_every=preconditioner_every)
    at_least(0, eps=eps)
    return {
        "preconditioner": preconditioner,
        "preconditioner_beta": preconditioner_beta,
        "preconditioner_every": preconditioner_every,
        "eps": eps,
    }


def unread(group: dict[str, Any]) -> dict[str, str]:
    """The options without effect in a group that has no preconditioner."""
    if group["preconditioner"] != "none":
        return {}
    names = ("preconditioner_beta", "preconditioner_every", "eps")
    return dict.fromkeys(names, "preconditioner='none'")


def passed(
    gradients: list[Tensor], states: Sequence[dict[str, Any]], group: dict[str, Any], step: int
) -> list[Tensor]:
    """P G of every matrix, if the group has a preconditioner; vectors unchanged."""
    if group["preconditioner"] == "none":
        return gradients
    numbers = {"beta": group["preconditioner_beta"], "eps": group["eps"]}
    numbers |= {"every": group["preconditioner_every"], "step": step}
    return [
        apply(g, state, **numbers) if g.ndim > 1 else g
        for g, state in zip(gradients, states, strict=True)
    ]


def start(parameter: Tensor, group: dict[str, Any]) -> dict[str, Tensor]:
    """Zero covariance and P = I; empty for vectors, or without a preconditioner."""
    if group["preconditioner"] == "none" or parameter.ndim < 2:
        return {}
    if not plain(parameter):
        raise UserError(
            'preconditioner="covariance" needs unsharded matrices; shard nothing, or use "none"'
        )
    eye = torch.eye(parameter.shape[0], dtype=wide_dtype(parameter), device=parameter.device)
    return {"covariance": torch.zeros_like(eye), "preconditioner": eye}


def apply(
    gradient: Tensor, state: dict[str, Any], *, beta: float, eps: float, every: int, step: int
) -> Tensor:
    """P G, for a gradient reshaped to (first, all others); P is recomputed every ``every`` steps.

    C <- beta C + (1 - beta) G G^T, P = (C / (1 - beta^t) + eps I)^(-1/2).

    Source: arXiv 2512.24695, Eq 38-41 and 106-111: P is the optimal memory of the gradients'
    outer products. Deviates: an exponential moving average in place of the sum.
    Cost: time O(p^2 q) per step and O(p^3) every ``every`` steps; 2 p^2 numbers.
    """
    matrix = gradient.flatten(1)
    state["covariance"].lerp_(matrix @ matrix.mT, 1 - beta)
    if (step - 1) % every == 0:
        values, vectors = torch.linalg.eigh(state["covariance"] / (1 - beta**step))
        roots = (values.clamp_min(0) + eps).rsqrt()
        state["preconditioner"].copy_((vectors * roots) @ vectors.mT)
    return (state["preconditioner"] @ matrix).view_as(gradient)
