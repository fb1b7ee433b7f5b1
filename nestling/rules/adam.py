"""Adam: the mean of gradients divided by the root of the mean of their squares."""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float, Int
from torch import Tensor

from nestling.rules.rule import (
    DIRECTION,
    SIZE,
    Buffers,
    Evidence,
    GradientRecord,
    Rate,
    Rule,
    RuleOptions,
    bias_correction,
    root,
)


@dataclass(frozen=True, kw_only=True)
class Adam(Rule):
    """Adam with bias correction. Source: arXiv 1412.6980, algorithm 1. Deviates: nothing."""

    beta1: float | int = 0.9  # retention of m
    beta2: float | int = 0.999  # retention of v
    eps: float | int = 1e-8  # added to the root mean square

    default_lr: ClassVar[float] = 0.003
    summary: ClassVar[str] = "Adam"
    elementwise: ClassVar[bool] = True

    @classmethod
    def of(cls, options: RuleOptions) -> Rule:
        """The rule with the constants of a level in context."""
        return cls(beta1=options.momentum, beta2=options.square_momentum, eps=options.epsilon)

    @property
    def buffers(self) -> tuple[str, ...]:
        """The mean and the mean square."""
        return ("m", "v")

    @property
    def records(self) -> tuple[GradientRecord, ...]:
        """Two memories (arXiv 2512.24695, appendix B, Eq 100-111)."""
        mean = "Hebbian with decay: m <- beta1 m + (1 - beta1) g"
        square = "delta rule: v <- beta2 v + (1 - beta2) g^2"
        return (
            GradientRecord("m", "-<m, g>", mean, DIRECTION),
            GradientRecord("v", "|v - g^2|^2 / 2", square, SIZE),
        )

    def step(
        self, eta: Rate, evidence: Evidence, buffers: Buffers, number: Int[Tensor, " B"]
    ) -> tuple[Float[Tensor, "B *S"], Buffers]:
        """-eta m / (sqrt(v) + eps), with bias-corrected m and v."""
        g, (m, v) = evidence.gradient, buffers
        m = self.beta1 * m + (1 - self.beta1) * g
        v = self.beta2 * v + (1 - self.beta2) * g.square()
        mean, square = (
            m / bias_correction(self.beta1, number, m),
            v / bias_correction(self.beta2, number, v),
        )
        return -eta * mean / (root(square) + self.eps), (m, v)
