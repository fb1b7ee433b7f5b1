"""M3: orthogonalised momenta of several periods over one second moment."""

from collections.abc import Sequence
from typing import Any, ClassVar

from nestling import rules
from nestling.core.error import UserError
from nestling.optim.base import at_least, check_choice, fraction
from nestling.optim.ruled import Ruled, check_newton_schulz, constants, dtype_of
from nestling.rules.m3 import STYLES, UPDATE_NORMS
from nestling.rules.rule import Rule

OPTIONS = constants(rules.M3)


class M3(Ruled):
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

    >>> import torch
    >>> weight = torch.nn.Parameter(torch.eye(2))
    >>> optimizer = M3([weight], lr=0.1)
    >>> weight.square().sum().backward()
    >>> optimizer.step()
    >>> bool(weight.trace() < 2)
    True
    """

    name = "m3"
    default_lr: ClassVar[float] = 1e-3
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
        check_choice("style", style, STYLES)
        check_choice("update_norm", update_norm, UPDATE_NORMS)
        check_newton_schulz(ns_steps, ns_precision)
        for momentum in slow:
            if len(momentum) != 3:
                raise UserError(f"slow contains {momentum}; give (period in steps, beta3, alpha)")
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

    def rule(self, group: dict[str, Any]) -> Rule:
        """M3 with the constants of a group."""
        options = OPTIONS(group)
        # a state dict may have made lists of them
        options["slow"] = tuple(map(tuple, group["slow"]))
        return rules.M3(**options, ns_dtype=dtype_of(group["ns_precision"]))
