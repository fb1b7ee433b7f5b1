"""Gradient descent, without a memory of gradients."""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float, Int
from torch import Tensor

from nestling.rules.rule import Buffers, Evidence, Rate, Rule


@dataclass(frozen=True, kw_only=True)
class Gradient(Rule):
    """W <- W - eta g. Source: arXiv 2512.24695, Eq 7-9. Deviates: nothing."""

    default_lr: ClassVar[float] = 0.3
    summary: ClassVar[str] = "W <- W - eta g"
    elementwise: ClassVar[bool] = True

    def step(
        self, eta: Rate, evidence: Evidence, buffers: Buffers, number: Int[Tensor, " B"]
    ) -> tuple[Float[Tensor, "B *S"], Buffers]:
        """-eta g."""
        return -eta * evidence.gradient, buffers
