"""Momentum whose output is bent: through Newton-Schulz it is Muon."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from nestling.optim.base import GradientMemory, blocks, chosen, column, fraction, zeros_for
from nestling.optim.orthogonal import checked, matched, orthogonal

OUTPUTS = ("newton_schulz", "sign", "tanh")
ADJUSTMENTS = ("match_rms_adamw", "original", "none")


class NonlinearMomentum(GradientMemory):
    """A linear memory of gradients, read through a function.

        m <- alpha m + (1 - alpha) g        W <- W - lr sigma(m)

    ``output`` is sigma: "newton_schulz", the orthogonal matrix next to m; "sign"; "tanh" of m over
    ``scale``. With ``nesterov`` sigma is of alpha m + (1 - alpha) g, with the new m. Newton-Schulz
    reads tensors of higher rank as (first, all others); tensors of rank 0 or 1, and groups with
    ``orthogonal=False``, as one column, whose orthogonal matrix is m / |m|. Its step is times a
    factor, ``adjust_lr``: "match_rms_adamw": 0.2 sqrt(max(p, q)), so that AdamW's rates suit;
    "original": sqrt(max(1, p / q)); "none".

    A loss times c takes the same steps, but for "tanh", whose steps lengthen up to lr.

    With ``adjust_lr="original"`` it is torch.optim.Muon on matrices.

    Source: arXiv 2512.24695, Eq 42 and 52; Muon. Deviates: the rate multiplies the step and not the
    write; m is a mean, which sigma of "newton_schulz" and "sign" cannot tell from a sum.
    Cost: Newton-Schulz, two products of the size of m and one of the shorter side's for each of
    ``ns_steps``; one number a weight.

    >>> weight = torch.nn.Parameter(torch.zeros(2, 3))
    >>> optimizer = NonlinearMomentum([weight], lr=0.1, output="sign")
    >>> (weight[0] - weight[1]).sum().backward()
    >>> optimizer.step()
    >>> weight.data
    tensor([[-0.1000, -0.1000, -0.1000],
            [ 0.1000,  0.1000,  0.1000]])
    """

    alike = True
    cycled = "alpha"

    def __init__(
        self,
        params: Any,
        lr: float | int = 1e-3,
        *,
        alpha: float | int = 0.95,
        output: str = "newton_schulz",
        nesterov: bool = True,
        adjust_lr: str = "match_rms_adamw",
        orthogonal: bool = True,
        ns_steps: int = 5,
        ns_precision: str = "bfloat16",
        scale: float | int = 1.0,
        weight_decay: float | int = 0.0,
        maximize: bool = False,
        nonfinite: str = "raise",
    ):
        fraction(alpha=alpha)
        chosen("output", output, OUTPUTS)
        chosen("adjust_lr", adjust_lr, ADJUSTMENTS)
        checked(ns_steps, ns_precision)
        options = {
            "alpha": alpha,
            "output": output,
            "nesterov": nesterov,
            "adjust_lr": adjust_lr,
            "orthogonal": orthogonal,
            "ns_steps": ns_steps,
            "ns_precision": ns_precision,
            "scale": scale,
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
        return {"m": zeros_for(parameter)}

    def _write(
        self,
        group: dict[str, Any],
        parameters: list[Tensor],
        gradients: list[Tensor],
        states: list[dict[str, Any]],
        step: int,
    ) -> None:
        lr, alpha, m = float(group["lr"]), group["alpha"], column(states, "m")
        for some_m, some_g in blocks(m, gradients):
            torch._foreach_lerp_(some_m, some_g, 1 - alpha)
        seen = list(torch._foreach_lerp(gradients, m, alpha)) if group["nesterov"] else m
        if group["output"] == "sign":
            moves = list(torch._foreach_sign(seen))
        elif group["output"] == "tanh":
            moves = list(torch._foreach_tanh(torch._foreach_div(seen, group["scale"])))
        elif parameters[0].ndim > 1 and group["orthogonal"]:
            found = orthogonal(seen, group["ns_steps"], group["ns_precision"])
            moves = [o.to(x.dtype) for o, x in zip(found, m, strict=True)]
            lr *= adjustment(moves[0].shape, group["adjust_lr"])
        else:
            moves = [x / torch.linalg.vector_norm(x).clamp_min(1e-30) for x in seen]
            lr *= adjustment((moves[0].numel(), 1), group["adjust_lr"])
        torch._foreach_add_(parameters, moves, alpha=-lr)


def adjustment(shape: Sequence[int], kind: str) -> float:
    """The factor on the step of an orthogonal matrix."""
    if kind == "match_rms_adamw":
        return matched(shape)
    return math.sqrt(max(1, shape[0] / math.prod(shape[1:]))) if kind == "original" else 1.0
