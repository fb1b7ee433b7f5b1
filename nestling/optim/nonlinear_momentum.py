"""Momentum with a nonlinear output; with Newton-Schulz it is Muon."""

from typing import Any, ClassVar

from nestling import rules
from nestling.optim.base import check_choice, fraction
from nestling.optim.ruled import Ruled, check_newton_schulz, constants, dtype_of
from nestling.rules.nonlinear_momentum import ADJUSTMENTS, OUTPUTS
from nestling.rules.rule import Rule

OPTIONS = constants(rules.NonlinearMomentum)


class NonlinearMomentum(Ruled):
    """A linear memory of gradients, read through a nonlinear function.

        m <- alpha m + (1 - alpha) g        W <- W - lr sigma(m)

    ``output`` is sigma: "newton_schulz": the orthogonal matrix nearest to m; "sign"; "tanh": of
    m / ``scale``. With ``nesterov`` sigma is applied to alpha m + (1 - alpha) g, with the new m.
    Newton-Schulz reshapes tensors of higher rank to (first, all others); tensors of rank 0 or 1,
    and groups with ``orthogonal=False``, count as one column, so that sigma(m) is m / |m|. Its step
    is multiplied by ``adjust_lr``: "match_rms_adamw": 0.2 sqrt(max(p, q)), so that AdamW's learning
    rates fit; "original": sqrt(max(1, p / q)); "none": 1.

    Multiplying the loss by c leaves the steps unchanged, except with "tanh", whose steps grow with
    c, up to lr. With ``adjust_lr="original"`` it is torch.optim.Muon on matrices.

    Source: arXiv 2512.24695, Eq 42 and 52; Muon. Deviates: lr multiplies the step and not the
    write; m is a mean, which makes no difference to "newton_schulz" and "sign".
    Cost: Newton-Schulz takes, for each of ``ns_steps``, two products of the size of m and one of
    the size of its shorter side; one number per weight.

    >>> import torch
    >>> weight = torch.nn.Parameter(torch.zeros(2, 3))
    >>> optimizer = NonlinearMomentum([weight], lr=0.1, output="sign")
    >>> (weight[0] - weight[1]).sum().backward()
    >>> optimizer.step()
    >>> weight.data
    tensor([[-0.1000, -0.1000, -0.1000],
            [ 0.1000,  0.1000,  0.1000]])
    """

    name = "nonlinear_momentum"
    default_lr: ClassVar[float] = 3e-3
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
        check_choice("output", output, OUTPUTS)
        check_choice("adjust_lr", adjust_lr, ADJUSTMENTS)
        check_newton_schulz(ns_steps, ns_precision)
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

    def rule(self, group: dict[str, Any]) -> Rule:
        """Nonlinear momentum with the constants of a group."""
        return rules.NonlinearMomentum(**OPTIONS(group), ns_dtype=dtype_of(group["ns_precision"]))
