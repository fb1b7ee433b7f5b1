"""Delta momentum: a memory of gradients that forgets along the gradient it takes in."""

from typing import Any

import torch
from torch import Tensor

from nestling.core.rule import SMALLEST, along_matrix, inner_rows
from nestling.optim import preconditioner as precondition
from nestling.optim.base import (
    GradientMemory,
    at_least,
    blocks,
    chosen,
    column,
    fraction,
    zeros_for,
)

LAYOUTS = ("auto", "scalar", "row", "matrix")
DECAY_NORMS = ("auto", "unit", "soft", "clamp", "none")


class DeltaMomentum(GradientMemory):
    """Momentum that minimises |m G^T + P|^2 / 2: it overwrites what it holds along G.

        m <- m (alpha I - k G^T G) + P G       W <- W - lr m

    ``layout`` says what is a row of G: "matrix": G is p x q (first dimension, all others), the
    Gram matrix q x q; "row": every row by itself, m <- alpha m - k (m.g) g + g; "scalar": the
    tensor is one column, m <- (alpha - k |g|^2) m + g, a weight decay of the momentum that depends
    on the gradient; "auto": "row" for matrices and higher ranks. Vectors are always "scalar".

    ``decay_norm`` bounds k, as gradients have any scale: "unit": k = eta_decay / |G|^2, so that the
    step is that of a gradient of length one; "soft": k = eta_decay / (1 + |G|)^2; "clamp":
    min(eta_decay, alpha / |G|^2), so that no part of m changes sign; "none": eta_decay as printed,
    which grows without bound once eta_decay |G|^2 > 1 + alpha. "auto" is "unit", and "soft" in the
    scalar layout, where "unit" would be a constant.

    A loss times c takes steps c times as long with "unit"; with the others it forgets more.
    ``eta_decay=0`` is torch.optim.SGD with momentum alpha.

    Source: arXiv 2512.24695, Eq 48-49. Deviates: printed without the eta before G^T G; the CR puts
    it on the left, (alpha I - G^T G) m, which has no type unless p = q; the rate multiplies the
    step and not the write, as in torch's SGD, equal at a constant rate.
    Cost: "scalar" one look at g more than SGD, "row" two, "matrix" O(p q min(p, q)); one number a
    weight; preconditioner="covariance": 2 p^2 numbers and the time of
    ``nestling.optim.preconditioner.apply`` besides.

    >>> weight = torch.nn.Parameter(torch.ones(2, 2))
    >>> optimizer = DeltaMomentum([weight], lr=0.1)
    >>> for _ in range(2):
    ...     optimizer.zero_grad()
    ...     weight.sum().backward()  # the same gradient again: half of it is known
    ...     optimizer.step()
    >>> optimizer.state[weight]["m"]
    tensor([[1.4000, 1.4000],
            [1.4000, 1.4000]])
    """

    def __init__(
        self,
        params: Any,
        lr: float | int = 3e-2,
        *,
        alpha: float | int = 0.9,
        eta_decay: float | int = 0.5,
        layout: str = "auto",
        decay_norm: str = "auto",
        preconditioner: str = "none",
        preconditioner_beta: float | int = 0.95,
        preconditioner_every: int = 10,
        eps: float | int = 1e-8,
        weight_decay: float | int = 0.0,
        maximize: bool = False,
        nonfinite: str = "raise",
    ):
        fraction(alpha=alpha, preconditioner_beta=preconditioner_beta)
        at_least(0, eta_decay=eta_decay, eps=eps)
        at_least(1, preconditioner_every=preconditioner_every)
        chosen("layout", layout, LAYOUTS)
        chosen("decay_norm", decay_norm, DECAY_NORMS)
        chosen("preconditioner", preconditioner, precondition.PRECONDITIONERS)
        options = {
            "alpha": alpha,
            "eta_decay": eta_decay,
            "layout": layout,
            "decay_norm": decay_norm,
            "preconditioner": preconditioner,
            "preconditioner_beta": preconditioner_beta,
            "preconditioner_every": preconditioner_every,
            "eps": eps,
        }
        super().__init__(
            params,
            lr=lr,
            weight_decay=weight_decay,
            maximize=maximize,
            nonfinite=nonfinite,
            options=options,
        )

    def _start(self, parameter: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        state = {"m": zeros_for(parameter)}
        if group["preconditioner"] != "none" and parameter.ndim > 1:
            state |= precondition.start(parameter)
        return state

    def _write(
        self,
        group: dict[str, Any],
        parameters: list[Tensor],
        gradients: list[Tensor],
        states: list[dict[str, Any]],
        step: int,
    ) -> None:
        lr, m = float(group["lr"]), column(states, "m")
        taken = gradients
        if group["preconditioner"] != "none":
            options = {
                "beta": group["preconditioner_beta"],
                "eps": group["eps"],
                "every": group["preconditioner_every"],
                "step": step,
            }
            taken = [
                precondition.apply(g, s, **options) if g.ndim > 1 else g
                for g, s in zip(gradients, states, strict=True)
            ]
        write = {"scalar": write_scalar, "row": write_rows, "matrix": write_matrix}
        for layout, numbers in by_layout(parameters, group["layout"]).items():
            columns = ([of[i] for i in numbers] for of in (parameters, m, gradients, taken))
            bounds = {"alpha": group["alpha"], "eta": group["eta_decay"]}
            bounds["kind"] = decay_norm(group["decay_norm"], layout)
            write[layout](*columns, lr=lr, **bounds)


def by_layout(parameters: list[Tensor], layout: str) -> dict[str, list[int]]:
    """Which parameters are written in which layout, by their numbers."""
    found: dict[str, list[int]] = {}
    for number, parameter in enumerate(parameters):
        own = "scalar" if parameter.ndim < 2 else "row" if layout == "auto" else layout
        found.setdefault(own, []).append(number)
    return found


def decay_norm(kind: str, layout: str) -> str:
    """The bound that "auto" stands for."""
    if kind != "auto":
        return kind
    return "soft" if layout == "scalar" else "unit"


def strength(length: Tensor, alpha: float | int, eta: float | int, kind: str) -> Tensor:
    """k, for gradients of these lengths."""
    if kind == "unit":
        return eta / (length.square() + SMALLEST**2)
    if kind == "soft":
        return eta / (1 + length).square()
    if kind == "clamp":
        return (alpha / (length.square() + SMALLEST**2)).clamp_max(eta)
    return torch.full_like(length, eta)


def write_scalar(
    parameters: list[Tensor],
    m: list[Tensor],
    g: list[Tensor],
    taken: list[Tensor],
    *,
    lr: float,
    alpha: float | int,
    eta: float | int,
    kind: str,
) -> None:
    """m <- (alpha - k |g|^2) m + P g, W <- W - lr m."""
    lengths = torch._foreach_norm(g)
    kept = [alpha - strength(n, alpha, eta, kind) * n.square() for n in lengths]
    for number, keep in enumerate(kept):
        columns = ([of[number]] for of in (parameters, m, taken))
        for some, some_m, some_taken in blocks(*columns):
            torch._foreach_mul_(some_m, keep)
            torch._foreach_add_(some_m, some_taken)
            torch._foreach_add_(some, some_m, alpha=-lr)


def write_rows(
    parameters: list[Tensor],
    m: list[Tensor],
    g: list[Tensor],
    taken: list[Tensor],
    *,
    lr: float,
    alpha: float | int,
    eta: float | int,
    kind: str,
) -> None:
    """m <- alpha m - k (m.g) g + P g by rows, W <- W - lr m."""
    for some, some_m, some_g, some_taken in blocks(parameters, m, g, taken):
        along = []
        for old, new in zip(some_m, some_g, strict=True):
            rows = new.flatten(1)
            length = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
            part = strength(length, alpha, eta, kind) * inner_rows(old.flatten(1), rows)
            along.append(part.view(-1, *[1] * (new.ndim - 1)))
        torch._foreach_mul_(some_m, alpha)
        if taken is g:
            for old, new, part in zip(some_m, some_g, along, strict=True):
                old.addcmul_(new, 1 - part)
        else:
            for old, new, part in zip(some_m, some_g, along, strict=True):
                old.addcmul_(new, part, value=-1)
            torch._foreach_add_(some_m, some_taken)
        torch._foreach_add_(some, some_m, alpha=-lr)


def write_matrix(
    parameters: list[Tensor],
    m: list[Tensor],
    g: list[Tensor],
    taken: list[Tensor],
    *,
    lr: float,
    alpha: float | int,
    eta: float | int,
    kind: str,
) -> None:
    """m <- m (alpha I - k G^T G) + P G, W <- W - lr m."""
    for old, new in zip(m, g, strict=True):
        k = strength(torch.linalg.vector_norm(new), alpha, eta, kind)
        along = along_matrix(old.flatten(1), new.flatten(1)).view_as(old)
        old.mul_(alpha).addcmul_(along, k, value=-1)
    torch._foreach_add_(m, taken)
    torch._foreach_add_(parameters, m, alpha=-lr)
