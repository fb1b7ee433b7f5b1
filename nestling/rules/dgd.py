"""Delta gradient descent: regresses the output of a weight onto minus its gradient."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nestling.core.error import UserError
from nestling.rules.associative import damped, delta
from nestling.rules.rule import Buffers, Evidence, Rate, Rule, RuleOptions


@dataclass(frozen=True, kw_only=True)
class DGD(Rule):
    """W <- (W - eta g)(I + eta e X X^T / n)^-1, the exact proximal step.

    A write also erases the weight along the inputs it was computed from. Tensors without ``gram``
    (biases, norms) use the plain gradient.

    Source: arXiv 2512.24695, Eq 56-57, 112-121, for the mean over n tokens. Deviates: inputs of any
    norm, where the paper assumes norm 1; the caller chooses the weight that is erased.
    """

    erase: float | int = 1.0  # strength of the eraser; 1 as derived

    summary: ClassVar[str] = "W <- (W - eta g)(I + eta X X^T / n)^-1"
    erases: ClassVar[bool] = True

    @classmethod
    def of(cls, options: RuleOptions) -> Rule:
        """The rule with the constants of a level in context."""
        return cls(erase=options.erase)

    def step(
        self, eta: Rate, evidence: Evidence, buffers: Buffers, number: Int[Tensor, " B"]
    ) -> tuple[Float[Tensor, "B *S"], Buffers]:
        """The difference of the argmin to the weight."""
        g, w, gram = evidence
        if gram is None or gram.shape[-1] == 0:
            return -eta * g, buffers
        assert w is not None, "an eraser needs the weight it erases"
        return dgd_rows(w, g, gram, eta, self.erase) - w, buffers


def dgd(
    W: Float[Tensor, "*N p q"], k: Float[Tensor, "*N q"], g: Float[Tensor, "*N p"], eta: float
) -> Float[Tensor, "*N p q"]:
    """For one key: argmin over V of |V k + g|^2 / 2 + |V - W|^2 / (2 eta).

    W - eta' (W k + g) k^T with eta' = eta / (1 + eta |k|^2).

    Source: arXiv 2512.24695, Eq 56-57, 112-121. Deviates: eta' for a key of any norm
    (Sherman-Morrison); the paper has the forms for norm 1.
    """
    strength = damped(eta, k.square().sum(-1))
    return delta(W, k, -g, strength[..., None, None] if k.ndim > 1 else strength)


def dgd_rows(
    W: Float[Tensor, "*N p q"],
    G: Float[Tensor, "*N p q"],
    gram: Float[Tensor, "*N q q"],
    eta: Rate,
    scale: float | int = 1.0,
) -> Float[Tensor, "*N p q"]:
    """Delta gradient descent for many keys at once: (W - eta G)(I + eta scale gram)^-1.

    ``G`` is the sum (mean) of g k^T over the keys and ``gram`` the sum (mean) of k k^T. The result
    is the argmin over V of <V, G> + scale tr(V gram V^T) / 2 + |V - W|^2 / (2 eta).

    If the identity is lost in rounding beside large inputs, the system is solved by eigenvalues,
    which are at least 1. Raises UserError for non-finite inputs.

    Source: as ``dgd``. Cost: time O(q^3 + p q^2).
    """
    eye = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    system = eye + (eta * scale) * gram
    factor, wrong = torch.linalg.cholesky_ex(system)
    if not wrong.any():
        return torch.cholesky_solve((W - eta * G).mT, factor).mT
    if not system.isfinite().all():
        raise UserError("delta gradient descent got non-finite inputs; use a lower learning rate")
    values, vectors = torch.linalg.eigh(system.double())
    rows = (W - eta * G).double() @ vectors / values.clamp(min=1.0)[..., None, :]
    return (rows @ vectors.mT).to(W.dtype)
