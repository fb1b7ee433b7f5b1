"""The optimal elementwise memory of gradients, in closed form."""

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
    bias_correction,
)

WEIGHTINGS = ("mean", "sum")
TARGETS = ("root", "square")


@dataclass(frozen=True, kw_only=True)
class ElementwiseMemory(Rule):
    """m* = P M / (H + ridge), the argmin of a sum of w (m g - P)^2; W <- W - eta m*.

    The fields are the options of ``nestling.optim.ElementwiseMemory``.

    Source: arXiv 2512.24695, Eq 100-105. Deviates: see that class.
    """

    beta1: float | int = 0.95
    beta2: float | int = 0.95
    weighting: str = "mean"
    target: str = "root"
    ridge: float | int = 1e-16

    summary: ClassVar[str] = "M, H <- sums of w g, w g^2; W <- W - eta P M / H"
    elementwise: ClassVar[bool] = True

    @classmethod
    def of(cls, options: RuleOptions) -> Rule:
        """The rule with the constants of a level in context."""
        return cls(beta1=options.momentum, beta2=options.square_momentum)

    def unread(self) -> dict[str, str]:
        """The constants without effect, because of others, each with the reason."""
        if self.weighting == "sum":
            return {"beta2": "weighting='sum'"}
        # m* = H M / (H + ridge)
        barely = self.target == "square" and self.ridge <= type(self).ridge
        return {"beta2": "target='square' and no ridge"} if barely else {}

    @property
    def buffers(self) -> tuple[str, ...]:
        """M and H."""
        return ("m", "h")

    @property
    def records(self) -> tuple[GradientRecord, ...]:
        """One memory, written in closed form."""
        objective, rule = "sum of w (m g - P)^2", "closed form: m = P M / H"
        return (GradientRecord("M, H", objective, rule, DIRECTION),)

    def step(
        self, eta: Rate, evidence: Evidence, buffers: Buffers, number: Int[Tensor, " B"]
    ) -> tuple[Float[Tensor, "B *S"], Buffers]:
        """-eta m*, with the new M and H."""
        g, (m, h) = evidence.gradient, buffers
        if self.weighting == "mean":
            m = self.beta1 * m + (1 - self.beta1) * g
            h = self.beta2 * h + (1 - self.beta2) * g.square()
            total, power = (
                m / bias_correction(self.beta1, number, m),
                h / bias_correction(self.beta2, number, h),
            )
        else:
            m, h = self.beta1 * m + g, h + g.square()
            total, power = m, h
        return -eta * optimal(total, power, self.target, self.ridge), (m, h)


def optimal(M: Tensor, H: Tensor, target: str, ridge: float | int) -> Tensor:
    """P M / (H + ridge), the least-squares memory that maps every g seen so far to P."""
    return (H.sqrt() if target == "root" else H) * M / (H + ridge)
