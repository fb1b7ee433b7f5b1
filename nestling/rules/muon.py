"""Muon: momentum orthogonalised by Newton-Schulz."""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float, Int
from torch import Tensor

from nestling.rules.newton_schulz import orthogonal
from nestling.rules.rule import READ, Buffers, Evidence, GradientRecord, Rate, Rule, RuleOptions


@dataclass(frozen=True, kw_only=True)
class Muon(Rule):
    """m <- alpha m + g; W <- W - eta NewtonSchulz(m); plain momentum for other than matrices.

    Source: arXiv 2512.24695, Eq 42. Deviates: nothing.
    """

    alpha: float | int = 0.9  # retention

    default_lr: ClassVar[float] = 0.01
    summary: ClassVar[str] = "m <- mu m + g; W <- W - eta NewtonSchulz(m)"

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
        """One memory, written by the Hebbian rule."""
        return (GradientRecord("m", "-<m, g>", "Hebbian with decay: m <- alpha m + g", READ),)

    def by_rows(self, dimensions: int) -> bool:
        """Whether a tensor uses plain momentum."""
        return dimensions < 2

    def step(
        self, eta: Rate, evidence: Evidence, buffers: Buffers, number: Int[Tensor, " B"]
    ) -> tuple[Float[Tensor, "B *S"], Buffers]:
        """-eta NewtonSchulz(m), with the new m."""
        m = self.alpha * buffers[0] + evidence.gradient
        return -eta * (orthogonal(m) if m.ndim >= 3 else m), (m,)
