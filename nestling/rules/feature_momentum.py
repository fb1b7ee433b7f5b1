"""Momentum over features of the gradient."""

from dataclasses import dataclass
from typing import ClassVar

import torch
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

FEATURES = ("power", "polynomial")


@dataclass(frozen=True, kw_only=True)
class FeatureMomentum(Rule):
    """m <- alpha m + P phi(g); W <- W - eta m, with phi elementwise.

    The fields are the options of ``nestling.optim.FeatureMomentum``; P is the identity unless
    ``passed`` is given.

    Source: arXiv 2512.24695, Eq 46-47 and 51. Deviates: see that class.
    """

    alpha: float | int = 0.9  # retention
    features: str = "power"
    exponent: float | int = 0.5
    coefficients: tuple[float | int, ...] = (1.0, 0.5)

    summary: ClassVar[str] = "m <- alpha m + phi(g); W <- W - eta m"
    elementwise: ClassVar[bool] = True

    @classmethod
    def of(cls, options: RuleOptions) -> Rule:
        """The rule with the constants of a level in context."""
        return cls(alpha=options.momentum)

    def unread(self) -> dict[str, str]:
        """The constants without effect, because of others, each with the reason."""
        other = "coefficients" if self.features == "power" else "exponent"
        return {other: f"features={self.features!r}"}

    @property
    def buffers(self) -> tuple[str, ...]:
        """The momentum."""
        return ("m",)

    @property
    def records(self) -> tuple[GradientRecord, ...]:
        """One memory, written by the Hebbian rule."""
        rule = "Hebbian with decay: m <- alpha m + P phi(g)"
        return (GradientRecord("m", "<m g^T, P>", rule, DIRECTION),)

    def step(
        self,
        eta: Rate,
        evidence: Evidence,
        buffers: Buffers,
        number: Int[Tensor, " B"],
        passed: Float[Tensor, "B *S"] | None = None,
    ) -> tuple[Float[Tensor, "B *S"], Buffers]:
        """-eta m, with the new m; ``passed`` is P phi(g) from a preconditioner."""
        m = self.alpha * buffers[0] + (self.phi(evidence.gradient) if passed is None else passed)
        return -eta * m, (m,)

    def phi(self, g: Tensor) -> Tensor:
        """The feature map, an odd elementwise function."""
        if self.features == "power":
            return g if self.exponent == 1 else g.sign() * g.abs().pow(self.exponent)
        found, power = torch.zeros_like(g), g
        for coefficient in self.coefficients:
            found = found.add(power, alpha=coefficient)
            power = power * g.abs()
        return found
