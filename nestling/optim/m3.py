"""M3: momenta of several periods, each made orthogonal, over one second moment."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from nestling.core.error import UserError
from nestling.core.level import fires
from nestling.core.rule import SMALLEST, inner_rows
from nestling.optim.base import (
    GradientMemory,
    at_least,
    blocks,
    chosen,
    column,
    fraction,
    wide_dtype,
    zeros_for,
)
from nestling.optim.orthogonal import checked, matched, orthogonal

STYLES = ("ema", "paper", "delta")
UPDATE_NORMS = ("rms", "none", "pre", "adamuon")


class M3(GradientMemory):
    """Multi-scale Momentum Muon: a fast and any number of slow momenta, made orthogonal.

        M1 <- beta1 M1 + (1 - beta1) g        V <- beta2 V + (1 - beta2) g^2
        M2 <- beta3 M2 + (1 - beta3) mean of the last f gradients, after every f-th step
        W  <- W - lr U / rms(U),  U = (NS(M1) + alpha NS(M2)) / (sqrt(V) + eps)

    ``slow`` names the slow momenta as (period f in steps, beta3, alpha); each holds still between
    its writes. ``style``: "ema" as above; "paper": plain sums, M1 <- M1 + beta1 g, V <- V + beta2
    g^2, M2 <- M2 + beta3 (sum of f gradients); "delta": M1 forgets a part 1 - beta1 of itself along
    each row of g besides. ``update_norm``: "rms" divides by the root mean square, so that each
    weight moves by about lr; "none": lr U as printed, whose size is that of one over the gradient;
    "pre": NS of M / (sqrt(V) + eps), and "adamuon": V of NS(M1) instead of g, whose U is divided
    by its root mean square, both times 0.2, AdamW's usual size. Tensors of rank 0 or 1 and groups
    with ``orthogonal=False`` take Adam's step for every momentum. "ema" divides the moments by
    what they have seen, as Adam does.

    A loss times c takes the same steps, but for "none", whose steps are 1/c times as long.

    Source: arXiv 2512.24695, Eq 75, Algorithm 1. Deviates: "paper" with "none" is the algorithm,
    its slow sum over f gradients (printed f + 1, the first empty) and with the + of the algorithm
    where Eq 75 has -; the defaults "ema" and "rms", as sums shorten every step for good and the
    size of a printed step is one over the gradient's. No hyper-parameters are published.
    Cost: as Muon with one more Newton-Schulz every f steps; memory 2 numbers a weight and 2.5
    more for each slow momentum of a matrix, 3 of a vector.

    >>> weight = torch.nn.Parameter(torch.eye(2))
    >>> optimizer = M3([weight], lr=0.1)
    >>> weight.square().sum().backward()
    >>> optimizer.step()
    >>> bool(weight.trace() < 2)
    True
    """

    alike = True
    cycled = "beta1"

    def __init__(
        self,
        params: Any,
        lr: float | int = 1e-3,
        *,
        beta1: float | int = 0.9,
        beta2: float | int = 0.999,
        slow: Sequence[Sequence[float | int]] = ((16, 0.95, 0.5),),
        style: str = "ema",
        update_norm: str = "rms",
        orthogonal: bool = True,
        ns_steps: int = 5,
        ns_precision: str = "bfloat16",
        eps: float | int = 1e-8,
        weight_decay: float | int = 0.0,
        maximize: bool = False,
        nonfinite: str = "raise",
    ):
        fraction(beta1=beta1, beta2=beta2)
        chosen("style", style, STYLES)
        chosen("update_norm", update_norm, UPDATE_NORMS)
        checked(ns_steps, ns_precision)
        for momentum in slow:
            if len(momentum) != 3:
                raise UserError(f"slow has {momentum}; give (period in steps, beta3, alpha)")
            at_least(1, period=momentum[0])
            fraction(beta3=momentum[1])
            at_least(0, alpha=momentum[2], eps=eps)
        options = {
            "beta1": beta1,
            "beta2": beta2,
            "slow": tuple(tuple(momentum) for momentum in slow),
            "style": style,
            "update_norm": update_norm,
            "orthogonal": orthogonal,
            "ns_steps": ns_steps,
            "ns_precision": ns_precision,
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
        state = {"m": zeros_for(parameter), "v": zeros_for(parameter)}
        narrow = is_matrix(parameter, group) and wide_dtype(parameter) == torch.float32
        dtype = getattr(torch, group["ns_precision"]) if narrow else None
        for number in range(len(group["slow"])):
            state[f"sum{number}"] = zeros_for(parameter)
            state[f"slow{number}"] = zeros_for(parameter)
            state[f"read{number}"] = zeros_for(parameter, dtype)
        return state

    def _write(
        self,
        group: dict[str, Any],
        parameters: list[Tensor],
        gradients: list[Tensor],
        states: list[dict[str, Any]],
        step: int,
    ) -> None:
        matrix = is_matrix(parameters[0], group)
        m, v = column(states, "m"), column(states, "v")
        sums = [column(states, f"sum{n}") for n in range(len(group["slow"]))]
        for some_m, some_v, some_g, *some_sums in blocks(m, v, gradients, *sums):
            remember(some_m, some_g, group, matrix)
            if not matrix or group["update_norm"] != "adamuon":
                square(some_v, some_g, group)
            for total in some_sums:
                torch._foreach_add_(total, some_g)
        reads = [column(states, f"read{n}") for n in range(len(group["slow"]))]
        write = write_matrices if matrix else write_vectors
        write(parameters, m, v, reads, group, step)
        for number, (period, _, _) in enumerate(group["slow"]):
            if fires(period, step):
                refresh(states, number, group, matrix, step)


def is_matrix(parameter: Tensor, group: dict[str, Any]) -> bool:
    """Whether the steps of a parameter are made orthogonal."""
    return parameter.ndim > 1 and group["orthogonal"]


def remember(m: list[Tensor], g: list[Tensor], group: dict[str, Any], matrix: bool) -> None:
    """M1 <- beta1 M1 + (1 - beta1) g, or as the style says."""
    beta = group["beta1"]
    if group["style"] == "paper":
        torch._foreach_add_(m, g, alpha=beta)
        return
    if group["style"] == "delta" and matrix:
        for old, new in zip(m, g, strict=True):
            keys = new.flatten(1)
            power = keys.square().sum(-1, keepdim=True) + SMALLEST**2
            forgotten = inner_rows(old.flatten(1), keys) / power * keys
            old.lerp_(new, 1 - beta).sub_(forgotten.view_as(old), alpha=1 - beta)
    else:
        torch._foreach_lerp_(m, g, 1 - beta)


def square(v: list[Tensor], g: list[Tensor], group: dict[str, Any]) -> None:
    """V <- beta2 V + (1 - beta2) g^2, or as the style says."""
    beta = group["beta2"]
    if group["style"] == "paper":
        torch._foreach_addcmul_(v, g, g, value=beta)
    else:
        torch._foreach_mul_(v, beta)
        torch._foreach_addcmul_(v, g, g, value=1 - beta)


def seen(group: dict[str, Any], beta: float | int, count: int) -> float:
    """The weight that a mean which began at zero has given to what it has seen."""
    return 1.0 if group["style"] == "paper" else 1 - beta**count


def denominators(v: list[Tensor], group: dict[str, Any], step: int) -> tuple[list[Tensor], float]:
    """sqrt(V) + eps times the number beside them: one product less for every weight."""
    factor = seen(group, group["beta2"], step) ** 0.5
    below = list(torch._foreach_sqrt(v))
    torch._foreach_add_(below, group["eps"] * factor)
    return below, factor


def write_matrices(
    parameters: list[Tensor],
    m: list[Tensor],
    v: list[Tensor],
    reads: list[list[Tensor]],
    group: dict[str, Any],
    step: int,
) -> None:
    """W <- W - lr U, in the size that update_norm says."""
    kind, lr = group["update_norm"], float(group["lr"])
    taken = list(torch._foreach_div(m, denominators(v, group, step)[0])) if kind == "pre" else m
    found = orthogonal(taken, group["ns_steps"], group["ns_precision"])
    if kind == "adamuon":
        square(v, [o.to(x.dtype) for o, x in zip(found, v, strict=True)], group)
    for (_, _, alpha), read in zip(group["slow"], reads, strict=True):
        torch._foreach_add_(found, read, alpha=alpha)
    moves = [o.to(x.dtype) for o, x in zip(found, m, strict=True)]
    if kind == "pre":
        torch._foreach_add_(parameters, moves, alpha=-lr * matched(moves[0].shape))
        return
    factor = 1.0
    for some_moves, some_v in blocks(moves, v):
        below, factor = denominators(some_v, group, step)
        torch._foreach_div_(some_moves, below)
    if kind == "none":
        torch._foreach_add_(parameters, moves, alpha=-lr * factor)
        return
    size = (0.2 if kind == "adamuon" else 1.0) * moves[0].numel() ** 0.5
    for parameter, move in zip(parameters, moves, strict=True):
        # the norm stays a tensor: to read it would wait for the device
        norm = torch.linalg.vector_norm(move).clamp_min(group["eps"])
        parameter.addcmul_(move, size / norm, value=-lr)


def write_vectors(
    parameters: list[Tensor],
    m: list[Tensor],
    v: list[Tensor],
    reads: list[list[Tensor]],
    group: dict[str, Any],
    step: int,
) -> None:
    """W <- W - lr times Adam's step, of every momentum."""
    for some, some_m, some_v, *some_reads in blocks(parameters, m, v, *reads):
        moves = list(torch._foreach_div(some_m, seen(group, group["beta1"], step)))
        for (_, _, alpha), read in zip(group["slow"], some_reads, strict=True):
            torch._foreach_add_(moves, read, alpha=alpha)
        below, factor = denominators(some_v, group, step)
        torch._foreach_div_(moves, below)
        torch._foreach_add_(some, moves, alpha=-float(group["lr"]) * factor)


def refresh(
    states: list[dict[str, Any]],
    number: int,
    group: dict[str, Any],
    matrix: bool,
    step: int,
) -> None:
    """A slow momentum takes in the gradients of its period; what the weights see of it is new."""
    period, beta, _ = group["slow"][number]
    sums, slow = column(states, f"sum{number}"), column(states, f"slow{number}")
    if group["style"] == "paper":
        torch._foreach_add_(slow, sums, alpha=beta)
    else:
        torch._foreach_div_(sums, period)
        torch._foreach_lerp_(slow, sums, 1 - beta)
    torch._foreach_zero_(sums)
    if not matrix:
        found = torch._foreach_div(slow, seen(group, beta, step // period))
    else:
        taken = slow
        if group["update_norm"] == "pre":
            below, _ = denominators(column(states, "v"), group, step)
            taken = list(torch._foreach_div(slow, below))
        found = orthogonal(taken, group["ns_steps"], group["ns_precision"])
    for kept, new in zip(column(states, f"read{number}"), found, strict=True):
        kept.copy_(new)
