"""The writes of delta momentum in its layouts: in torch, and of whole groups in one pass."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from nestling.core.rule import SMALLEST, along_matrix, inner_rows
from nestling.optim import sweep
from nestling.optim.base import blocks

LAYOUTS = ("auto", "scalar", "row", "matrix")
DECAY_NORMS = ("auto", *sweep.KINDS)


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
    lengths: list[Tensor],
    *,
    lr: float,
    alpha: float | int,
    eta: float | int,
    kind: str,
) -> None:
    """m <- (alpha - k |g|^2) m + P g, W <- W - lr m."""
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
    same = all(one is other for one, other in zip(taken, g, strict=True))
    for some, some_m, some_g, some_taken in blocks(parameters, m, g, taken):
        along = []
        for old, new in zip(some_m, some_g, strict=True):
            rows = new.flatten(1)
            length = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
            part = strength(length, alpha, eta, kind) * inner_rows(old.flatten(1), rows)
            along.append(part.view(-1, *[1] * (new.ndim - 1)))
        torch._foreach_mul_(some_m, alpha)
        if same:
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
    lengths: list[Tensor],
    *,
    lr: float,
    alpha: float | int,
    eta: float | int,
    kind: str,
) -> None:
    """m <- m (alpha I - k G^T G) + P G, W <- W - lr m."""
    for old, new, length in zip(m, g, lengths, strict=True):
        k = strength(length, alpha, eta, kind)
        along = along_matrix(old.flatten(1), new.flatten(1)).view_as(old)
        old.mul_(alpha).addcmul_(along, k, value=-1)
    torch._foreach_add_(m, taken)
    torch._foreach_add_(parameters, m, alpha=-lr)


def write_at_once(
    group: dict[str, Any],
    parameters: list[Tensor],
    states: Mapping[Tensor, dict[str, Any]],
    lengths: Mapping[Tensor, Tensor],
) -> list[Tensor]:
    """Write what is scalars or rows, needs no preconditioner and fits; the parameters left."""
    if group["preconditioner"] != "none":
        return parameters
    rest, kinds = [], {}
    for layout, numbers in by_layout(parameters, group["layout"]).items():
        for parameter in (parameters[number] for number in numbers):
            width = math.prod(parameter.shape[1:]) if layout == "row" else 0
            m, g = states[parameter]["m"], parameter.grad
            narrow = layout != "matrix" and width <= sweep.WIDEST
            if g is None or not narrow or not sweep.fits(parameter, m, g):
                rest.append(parameter)
                continue
            kind = decay_norm(group["decay_norm"], layout)
            kinds.setdefault(parameter.dtype, []).append((parameter, m, g, width, kind))
    for some in kinds.values():
        of, m, g, widths, bounds = (list(column) for column in zip(*some, strict=True))
        sweep.write(
            of,
            m,
            g,
            widths=widths,
            kinds=bounds,
            squares=squares_of(of, g, widths, lengths),
            alpha=group["alpha"],
            eta=group["eta_decay"],
            lr=float(group["lr"]),
            kept=1 - float(group["lr"]) * group["weight_decay"],
            maximize=group["maximize"],
        )
    return rest


def squares_of(
    parameters: list[Tensor],
    g: list[Tensor],
    widths: list[int],
    lengths: Mapping[Tensor, Tensor],
) -> Tensor:
    """|g|^2 of each, from the lengths if they are known; else of those alone that need it."""
    if all(parameter in lengths for parameter in parameters):
        return torch.stack([lengths[parameter] for parameter in parameters]).double().square()
    found = torch.zeros(len(g), dtype=torch.float64)
    if needed := [number for number, width in enumerate(widths) if not width]:
        found[needed] = sweep.squares([g[number] for number in needed])
    return found
