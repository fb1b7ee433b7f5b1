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
    """Multi-scale Momentum Muon: a fast and any number of slow momenta, orthogonalised.

        M1 <- beta1 M1 + (1 - beta1) g        V <- beta2 V + (1 - beta2) g^2
        M2 <- beta3 M2 + (1 - beta3) mean of the last f gradients, after every f-th step
        W  <- W - lr U / rms(U),  U = (NS(M1) + alpha NS(M2)) / (sqrt(V) + eps)

    ``slow`` lists the slow momenta as (period f in steps, beta3, alpha); each is constant between
    its writes. ``style``: "ema" as above, with Adam's bias correction; "paper": plain sums,
    M1 <- M1 + beta1 g, V <- V + beta2 g^2, M2 <- M2 + beta3 (sum of f gradients); "delta": "ema"
    whose M1 also forgets a part 1 - beta1 of itself along each row of g. ``update_norm``: "rms"
    divides U by its root mean square, so that each weight moves by about lr; "none": lr U as
    printed, of the order of lr over the gradient's size; "pre": NS of M / (sqrt(V) + eps);
    "adamuon": V of NS(M1) instead of g, and U divided by its root mean square. The last two are
    multiplied by 0.2, the usual RMS of AdamW's steps. Tensors of rank 0 or 1 and groups with
    ``orthogonal=False`` take Adam's step for every momentum.

    Multiplying the loss by c leaves the steps unchanged, except with "none", where they become 1/c
    times as long.

    Source: arXiv 2512.24695, Eq 75, Algorithm 1. Deviates: "paper" with "none" is the algorithm,
    with its slow sum over f gradients (printed: f + 1, the first empty) and its +, where Eq 75 has
    -. The defaults are "ema" and "rms", because growing sums shorten the steps for good and the
    printed step shrinks as the gradient grows. No hyper-parameters are published.
    Cost: as Muon, with one more Newton-Schulz every f steps; 2 numbers per weight, and 2.5 more for
    each slow momentum of a matrix, 3 of a vector.

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
        # loading a state dict may have turned them into lists
        options["slow"] = tuple(map(tuple, group["slow"]))
        return rules.M3(**options, ns_dtype=dtype_of(group["ns_precision"]))
