"""Momentum with a nonlinear output: the nearest orthogonal matrix, sign, or tanh."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nestling.rules.newton_schulz import matched, orthogonal
from nestling.rules.rule import (
    READ,
    Buffers,
    Evidence,
    GradientRecord,
    Rate,
    Rule,
    RuleOptions,
    wide,
)

OUTPUTS = ("newton_schulz", "sign", "tanh")
ADJUSTMENTS = ("match_rms_adamw", "original", "none")


@dataclass(frozen=True, kw_only=True)
class NonlinearMomentum(Rule):
    """m <- alpha m + (1 - alpha) g; W <- W - eta sigma(m).

    The fields are the options of ``nestling.optim.NonlinearMomentum``.

    Source: arXiv 2512.24695, Eq 42 and 52; Muon. Deviates: see that class.
    """

    alpha: float | int = 0.95  # retention
    output: str = "newton_schulz"
    nesterov: bool = True
    adjust_lr: str = "match_rms_adamw"
    orthogonal: bool = True  # False: matrices are treated as columns as well
    ns_steps: int = 5
    ns_dtype: torch.dtype | None = None  # of the Newton-Schulz products; None: of m
    scale: float | int = 1.0  # of "tanh"

    summary: ClassVar[str] = "m <- alpha m + (1 - alpha) g; W <- W - eta sigma(m)"

    @classmethod
    def of(cls, options: RuleOptions) -> Rule:
        """The rule with the constants of a level in context."""
        return cls(alpha=options.momentum)

    def unread(self) -> dict[str, str]:
        """The constants without effect, because of others, each with the reason."""
        if self.output != "newton_schulz":
            names = ("adjust_lr", "orthogonal", "ns_steps", "ns_dtype")
            unread = dict.fromkeys(names, f"output={self.output!r}")
            return unread | ({} if self.output == "tanh" else {"scale": unread["orthogonal"]})
        unread = {"scale": "output='newton_schulz'"}
        if not self.orthogonal:
            unread |= dict.fromkeys(("ns_steps", "ns_dtype"), "orthogonal=False")
        return unread

    @property
    def buffers(self) -> tuple[str, ...]:
        """The momentum."""
        return ("m",)

    @property
    def records(self) -> tuple[GradientRecord, ...]:
        """One memory, written by the Hebbian rule."""
        rule = "Hebbian with decay: m <- alpha m + (1 - alpha) g"
        return (GradientRecord("m", "-<m, g>", rule, READ),)

    def step(
        self, eta: Rate, evidence: Evidence, buffers: Buffers, number: Int[Tensor, " B"]
    ) -> tuple[Float[Tensor, "B *S"], Buffers]:
        """-eta sigma(m), with the new m or, with nesterov, m one step further."""
        g = evidence.gradient
        m = torch.lerp(buffers[0], g, 1 - self.alpha)
        return -eta * self.read(torch.lerp(g, m, self.alpha) if self.nesterov else m), (m,)

    def read(self, m: Float[Tensor, "B *S"]) -> Float[Tensor, "B *S"]:
        """sigma(m)."""
        if self.output == "sign":
            return m.sign()
        if self.output == "tanh":
            return (m / self.scale).tanh()
        if m.ndim > 2 and self.orthogonal:
            factor = adjustment(m.shape[1:], self.adjust_lr)
            return factor * orthogonal(m, self.ns_steps, self.ns_dtype)
        n = torch.linalg.vector_norm(m.reshape(len(m), -1), dim=1).clamp_min(1e-30)
        return adjustment((m[0].numel(), 1), self.adjust_lr) * m / wide(n, m)


def adjustment(shape: Sequence[int], kind: str) -> float:
    """The factor on the step of an orthogonal matrix."""
    if kind == "match_rms_adamw":
        return matched(shape)
    return math.sqrt(max(1, shape[0] / math.prod(shape[1:]))) if kind == "original" else 1.0
