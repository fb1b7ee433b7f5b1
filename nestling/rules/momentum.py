"""Momentum: a linear memory of gradients with a constant decay."""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float, Int
from torch import Tensor

from nestling.rules.rule import (
    DIRECTION,
    Buffers,
    Evidence,
    GradientRecord,
    Rate,
    Rule,
    RuleOptions,
)


@dataclass(frozen=True, kw_only=True)
class Momentum(Rule):
    """m <- alpha m + g; W <- W - eta m.

    Source: arXiv 2512.24695, Eq 33. Deviates: eta is outside of m, which is the same at a constant
    rate.
    """

    alpha: float | int = 0.9  # retention

    default_lr: ClassVar[float] = 0.1
    summary: ClassVar[str] = "m <- mu m + g; W <- W - eta m"
    elementwise: ClassVar[bool] = True

    @classmethod
    def of(cls, options: RuleOptions) -> Rule:
        """The rule with the constants of a level in context."""
        return cls(alpha=options.momentum)

    @property
    def buffers(self) -> tuple[str, ...]:
        """The momentum."""
        return ("m",)

    @property
    def records(self) -> tuple[GradientRecord, ...]:
        """One memory, written by the Hebbian rule (Eq 10-13)."""
        return (GradientRecord("m", "-<m, g>", "Hebbian with decay: m <- beta m + g", DIRECTION),)

    def step(
        self, eta: Rate, evidence: Evidence, buffers: Buffers, number: Int[Tensor, " B"]
    ) -> tuple[Float[Tensor, "B *S"], Buffers]:
        """-eta m, with the new m."""
        m = self.alpha * buffers[0] + evidence.gradient
        return -eta * m, (m,)
