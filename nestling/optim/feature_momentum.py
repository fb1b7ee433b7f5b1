"""Momentum of features of the gradient, with a preconditioner."""

from typing import Any, ClassVar

from torch import Tensor

from nestling import rules
from nestling.core.error import UserError
from nestling.optim import preconditioner as precondition
from nestling.optim.base import at_least, check_choice, fraction
from nestling.optim.ruled import Ruled, constants
from nestling.rules.feature_momentum import FEATURES
from nestling.rules.rule import Rule

OPTIONS = constants(rules.FeatureMomentum)


class FeatureMomentum(Ruled):
    """A linear memory of elementwise features of the gradient.

        m <- alpha m + P phi(G)        W <- W - lr m

    ``features`` is phi. "power": sign(g) |g|^exponent; an exponent of 1 is the gradient itself, 0.5
    compresses heavy tails. "polynomial": c_0 g + c_1 g |g| + c_2 g |g|^2 ..., odd, so that it keeps
    the sign of the gradient. ``preconditioner`` is P: "none" (I), or "covariance": (E G G^T)^(-1/2)
    for matrices, recomputed every ``preconditioner_every`` steps.

    With "power" and no P, multiplying the loss by c makes the steps c^exponent times as long. With
    exponent 1 it is preconditioned momentum (Eq 46-47), and without P torch.optim.SGD with momentum
    alpha.

    Source: arXiv 2512.24695, Eq 46-47 and 51. Deviates: Eq 47 is printed without alpha, but its
    text and the CR have it; phi keeps the shape of the gradient; lr multiplies the step and not the
    write.
    Cost: as SGD, plus phi; one number per weight; P as in DeltaMomentum.

    >>> import torch
    >>> weight = torch.nn.Parameter(torch.ones(2))
    >>> optimizer = FeatureMomentum([weight], lr=0.1)
    >>> (weight * torch.tensor([4.0, 25.0])).sum().backward()
    >>> optimizer.step()
    >>> weight.data
    tensor([0.8000, 0.5000])
    """

    name = "feature_momentum"
    default_lr: ClassVar[float] = 1e-2
    cycled = "alpha"

    def __init__(
        self,
        params: Any,
        lr: float | int = 1e-2,
        *,
        alpha: float | int = 0.9,
        features: str = "power",
        exponent: float | int = 0.5,
        coefficients: tuple[float | int, ...] = (1.0, 0.5),
        preconditioner: str = "none",
        preconditioner_beta: float | int = 0.95,
        preconditioner_every: int = 10,
        eps: float | int = 1e-8,
        weight_decay: float | int = 0.0,
        maximize: bool = False,
        nonfinite: str = "raise",
    ):
        fraction(alpha=alpha)
        at_least(0, exponent=exponent)
        check_choice("features", features, FEATURES)
        if not coefficients:
            raise UserError("coefficients are empty; give at least one")
        options = {
            "alpha": alpha,
            "features": features,
            "exponent": exponent,
            "coefficients": tuple(coefficients),
        }
        options |= precondition.options(
            preconditioner=preconditioner,
            preconditioner_beta=preconditioner_beta,
            preconditioner_every=preconditioner_every,
            eps=eps,
        )
        super().__init__(
            params,
            lr=lr,
            weight_decay=weight_decay,
            maximize=maximize,
            nonfinite=nonfinite,
            options=options,
        )

    def rule(self, group: dict[str, Any]) -> Rule:
        """Feature momentum with the constants of a group."""
        options = OPTIONS(group)
        # loading a state dict may have turned it into a list
        options["coefficients"] = tuple(group["coefficients"])
        return rules.FeatureMomentum(**options)

    def unread(self, group: dict[str, Any]) -> dict[str, str]:
        """The options that neither the rule nor the preconditioner uses."""
        return super().unread(group) | precondition.unread(group)

    def _start(self, parameter: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        return super()._start(parameter, group) | precondition.start(parameter, group)

    def _passed(
        self,
        rule: Any,
        group: dict[str, Any],
        gradients: list[Tensor],
        states: list[dict[str, Any]],
        step: int,
    ) -> list[Tensor]:
        if group["preconditioner"] == "none":
            return gradients
        return precondition.passed([rule.phi(g) for g in gradients], states, group, step)
