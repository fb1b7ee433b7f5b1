"""Delta momentum: a memory of gradients that forgets along each new gradient."""

from typing import Any, ClassVar

from torch import Tensor

from nestling import rules
from nestling.optim import preconditioner as precondition
from nestling.optim.base import at_least, check_choice, fraction
from nestling.optim.delta_write import write_at_once
from nestling.optim.ruled import Ruled, constants
from nestling.rules.delta_momentum import DECAY_NORMS, LAYOUTS
from nestling.rules.rule import Rule

OPTIONS = constants(rules.DeltaMomentum)


class DeltaMomentum(Ruled):
    """Momentum that minimises |m G^T + P|^2 / 2: it overwrites what it stores along G.

        m <- m (alpha I - k G^T G) + P G       W <- W - lr m

    ``layout`` says how a tensor becomes G. "matrix": p x q (first dimension, all others), with a
    q x q Gram matrix; "row": every row by itself, m <- alpha m - k (m.g) g + g; "scalar": one
    column, m <- (alpha - k |g|^2) m + g, a decay of the momentum that depends on the gradient;
    "auto": "row" for matrices and higher ranks. Vectors are always "scalar".

    ``decay_norm`` bounds k whatever the scale of the gradient. "unit": k = eta_decay / |G|^2, as if
    the gradient had length one; "soft": k = eta_decay / (1 + |G|)^2; "clamp":
    min(eta_decay, alpha / |G|^2), so that no part of m changes sign; "none": eta_decay as printed,
    which grows without bound once eta_decay |G|^2 > 1 + alpha. "auto" is "unit", and "soft" in the
    scalar layout, where "unit" would be a constant.

    Multiplying the loss by c > 1 makes the steps c times as long with "unit"; with the others the
    momentum also forgets faster. ``eta_decay=0`` is torch.optim.SGD with momentum alpha.

    Source: arXiv 2512.24695, Eq 48-49. Deviates: the k before G^T G is not printed; the CR has
    (alpha I - G^T G) m, which is defined only for p = q; lr multiplies the step and not the write,
    as in torch's SGD, which is the same at a constant lr.
    Cost: "scalar" and "row" as SGD on a CPU (one pass, for contiguous float32 or float64), else one
    or two more passes over g; "matrix" O(p q min(p, q)); one number per weight.
    preconditioner="covariance" adds 2 p^2 numbers and the time of
    ``nestling.optim.preconditioner.apply``.

    >>> import torch
    >>> weight = torch.nn.Parameter(torch.ones(2, 2))
    >>> optimizer = DeltaMomentum([weight], lr=0.1)
    >>> for _ in range(2):
    ...     optimizer.zero_grad()
    ...     weight.sum().backward()  # the second time half of the gradient is already stored
    ...     optimizer.step()
    >>> optimizer.state[weight]["m"]
    tensor([[1.4000, 1.4000],
            [1.4000, 1.4000]])
    """

    name = "delta_momentum"
    default_lr: ClassVar[float] = 0.3
    at_once = staticmethod(write_at_once)
    cycled = "alpha"

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
        fraction(alpha=alpha)
        at_least(0, eta_decay=eta_decay)
        check_choice("layout", layout, LAYOUTS)
        check_choice("decay_norm", decay_norm, DECAY_NORMS)
        options = {
            "alpha": alpha,
            "eta_decay": eta_decay,
            "layout": layout,
            "decay_norm": decay_norm,
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
        """Delta momentum with the constants of a group."""
        return rules.DeltaMomentum(**OPTIONS(group))

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
        return precondition.passed(gradients, states, group, step)
