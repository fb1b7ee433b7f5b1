"""Delta momentum: a memory of gradients that forgets along each new gradient."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nestling.rules.newton_schulz import SMALLEST
from nestling.rules.rule import (
    DIRECTION,
    Buffers,
    Evidence,
    GradientRecord,
    Rate,
    Rule,
    RuleOptions,
    wide,
)

LAYOUTS = ("auto", "scalar", "row", "matrix")
BOUNDS = ("unit", "soft", "clamp", "none")  # in the order of their numbers in the compiled code
DECAY_NORMS = ("auto", *BOUNDS)


@dataclass(frozen=True, kw_only=True)
class DeltaMomentum(Rule):
    """m <- m (alpha I - k G^T G) + P G; W <- W - eta m: minimises |m G^T + P|^2 / 2.

    ``layout`` defines the rows of G, and ``decay_norm`` bounds k, see
    ``nestling.optim.DeltaMomentum``. P G is the gradient itself unless ``passed`` is given.

    Source: arXiv 2512.24695, Eq 48-49. Deviates: see ``nestling.optim.DeltaMomentum``.
    """

    alpha: float | int = 0.9  # retention
    eta_decay: float | int = 0.5  # strength of the eraser
    layout: str = "auto"
    decay_norm: str = "auto"

    summary: ClassVar[str] = "m <- m (mu I - u^T u) + g; W <- W - eta m"

    @classmethod
    def of(cls, options: RuleOptions) -> Rule:
        """The rule with the constants of a level in context, bounded so that m keeps its sign."""
        strength = min(options.erase, options.momentum)
        return cls(alpha=options.momentum, eta_decay=strength, layout="matrix", decay_norm="unit")

    @property
    def buffers(self) -> tuple[str, ...]:
        """The momentum."""
        return ("m",)

    @property
    def records(self) -> tuple[GradientRecord, ...]:
        """One memory, written by the delta rule."""
        rule = "delta rule: m <- m (alpha I - k g^T g) + P g"
        return (GradientRecord("m", "|m g^T + P|^2 / 2", rule, DIRECTION),)

    def by_rows(self, dimensions: int) -> bool:
        """Whether every row of a tensor is a separate memory."""
        return layout_of(self.layout, dimensions) == "row"

    def step(
        self,
        eta: Rate,
        evidence: Evidence,
        buffers: Buffers,
        number: Int[Tensor, " B"],
        passed: Float[Tensor, "B *S"] | None = None,
    ) -> tuple[Float[Tensor, "B *S"], Buffers]:
        """-eta m, with the new m; ``passed`` is P G from a preconditioner."""
        g, (m,) = evidence.gradient, buffers
        taken = g if passed is None else passed
        layout = layout_of(self.layout, g.ndim - 1)
        bound = bound_of(self.decay_norm, layout)
        if layout == "row":
            rows = g.flatten(2)
            n = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
            part = self.strength(n, bound) * inner_rows(m.flatten(2), rows)
            along = part.view(*g.shape[:2], *(1,) * (g.ndim - 2)) * g
            m = self.alpha * m - along + taken
            return -eta * m, (m,)
        n = torch.linalg.vector_norm(g.reshape(len(g), -1), dim=1)
        k = wide(self.strength(n, bound), m)
        if layout == "scalar":
            m = (self.alpha - k * wide(n.square(), m)) * m + taken
        else:
            along = along_matrix(m.flatten(2), g.flatten(2)).view_as(m)
            m = self.alpha * m - k * along + taken
        return -eta * m, (m,)

    def strength(self, length: Tensor, bound: str) -> Tensor:
        """k, for gradients of these norms."""
        if bound == "unit":
            return self.eta_decay / (length.square() + SMALLEST**2)
        if bound == "soft":
            return self.eta_decay / (1 + length).square()
        if bound == "clamp":
            return (self.alpha / (length.square() + SMALLEST**2)).clamp_max(self.eta_decay)
        return torch.full_like(length, self.eta_decay)


def layout_of(layout: str, dimensions: int) -> str:
    """The layout of a tensor with this many dimensions; vectors are one column."""
    if dimensions < 2:
        return "scalar"
    return "row" if layout == "auto" else layout


def bound_of(decay_norm: str, layout: str) -> str:
    """The bound that "auto" stands for."""
    if decay_norm != "auto":
        return decay_norm
    return "soft" if layout == "scalar" else "unit"


def inner_rows(m: Float[Tensor, "*N p q"], g: Float[Tensor, "*N p q"]) -> Float[Tensor, "*N p 1"]:
    """m.g for every row. With rows as separate memories, delta momentum forgets this times g.

    >>> inner_rows(torch.ones(2, 3), torch.tensor([[1.0, 2, 3], [0, 0, 1]])).mT
    tensor([[6., 1.]])
    """
    return (m * g).sum(-1, keepdim=True)


def along_matrix(m: Float[Tensor, "*N p q"], G: Float[Tensor, "*N p q"]) -> Float[Tensor, "*N p q"]:
    """m G^T G: the gradient of |m G^T|^2 / 2, in the cheaper order of the two products.

    Cost: time O(p q min(p, q)).
    """
    return (m @ G.mT) @ G if G.shape[-2] <= G.shape[-1] else m @ (G.mT @ G)
