"""The optimal elementwise memory of gradients, with Adam, AdaGrad and RMSProp as special cases."""

from typing import Any, ClassVar

from nestling import rules
from nestling.optim.base import at_least, check_choice, fraction
from nestling.optim.ruled import Ruled, constants
from nestling.rules.elementwise_memory import TARGETS, WEIGHTINGS
from nestling.rules.rule import Rule

OPTIONS = constants(rules.ElementwiseMemory)


class ElementwiseMemory(Ruled):
    """Elementwise associative memory of gradients, in closed form.

        m* = argmin over m of sum of w_i (m g_i - P)^2 + ridge m^2 = P M / (H + ridge)
        W <- W - lr m*,   M = sum of w_i g_i,  H = sum of w_i g_i^2

    ``weighting`` is w_i: "mean": (1 - beta) beta^(t - i), bias-corrected, with beta1 in M and beta2
    in H; "sum": 1 in H, and beta1^(t - i) in M. ``target`` is P: "root": sqrt(H), so that
    m* = M / sqrt(H); "square": H, so that m* = M, momentum. M and H belong to one regression only
    if beta1 = beta2; other betas are a heuristic, as in Adam.

    With "root" and eps = 0, beta1 = beta2 is torch.optim.Adam, beta1 = 0 with "sum" is
    torch.optim.Adagrad, and beta1 = 0 with "mean" is RMSProp with bias correction. Up to ridge,
    multiplying the loss by c leaves the steps of "root" unchanged and makes those of "square" c
    times as long.

    Source: arXiv 2512.24695, Eq 100-105. Deviates: the printed W - lr m* with g = minus the
    gradient would ascend; sums are weighted, because the printed plain sums give AdaGrad and not
    Adam; Eq 104 has a factor beta2 that does not follow from Eq 102.
    Cost: as Adam; two numbers per weight.

    >>> import torch
    >>> weight = torch.nn.Parameter(torch.ones(2))
    >>> optimizer = ElementwiseMemory([weight], lr=0.1)
    >>> (weight * torch.tensor([1.0, 100.0])).sum().backward()
    >>> optimizer.step()
    >>> weight.data
    tensor([0.9000, 0.9000])
    """

    name = "elementwise_memory"
    default_lr: ClassVar[float] = 3e-3
    cycled = "beta1"

    def __init__(
        self,
        params: Any,
        lr: float | int = 1e-3,
        *,
        beta1: float | int = 0.95,
        beta2: float | int = 0.95,
        weighting: str = "mean",
        target: str = "root",
        ridge: float | int = 1e-16,
        weight_decay: float | int = 0.0,
        maximize: bool = False,
        nonfinite: str = "raise",
    ):
        fraction(beta1=beta1, beta2=beta2)
        at_least(0, ridge=ridge)
        check_choice("weighting", weighting, WEIGHTINGS)
        check_choice("target", target, TARGETS)
        options = {"beta1": beta1, "beta2": beta2, "weighting": weighting}
        super().__init__(
            params,
            lr=lr,
            weight_decay=weight_decay,
            maximize=maximize,
            nonfinite=nonfinite,
            options={**options, "target": target, "ridge": ridge},
        )

    def rule(self, group: dict[str, Any]) -> Rule:
        """The memory with the constants of a group."""
        return rules.ElementwiseMemory(**OPTIONS(group))
