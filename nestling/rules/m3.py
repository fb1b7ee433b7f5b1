"""M3: orthogonalised momenta with several periods, over one second moment."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nestling.rules.delta_momentum import inner_rows
from nestling.rules.newton_schulz import SMALLEST, matched, orthogonal
from nestling.rules.rule import (
    READ,
    SIZE,
    Buffers,
    Evidence,
    GradientRecord,
    Rate,
    Rule,
    RuleOptions,
    bias_correction,
    root,
    wide,
)

STYLES = ("ema", "paper", "delta")
UPDATE_NORMS = ("rms", "none", "pre", "adamuon")
KEPT = ("slow", "sum", "read")  # per slow momentum: itself, gradients since its write, its output


@dataclass(frozen=True, kw_only=True)
class M3(Rule):
    """One fast and any number of slow memories of gradients, orthogonalised, over sqrt(V).

    The fields are the options of ``nestling.optim.M3``. Tensors that are not matrices use Adam.

    Source: arXiv 2512.24695, Eq 75, Algorithm 1. Deviates: see that class.
    """

    beta1: float | int = 0.9  # retention of M1
    beta2: float | int = 0.999  # retention of V
    slow: tuple[tuple[float | int, ...], ...] = ((16, 0.95, 0.5),)  # (period, beta3, alpha) each
    style: str = "ema"
    update_norm: str = "rms"
    orthogonal: bool = True  # False: matrices use Adam as well
    ns_steps: int = 5
    ns_dtype: torch.dtype | None = None  # of the Newton-Schulz products; None: of M1
    eps: float | int = 1e-8

    summary: ClassVar[str] = "fast and slow Muon over sqrt v"

    @classmethod
    def of(cls, options: RuleOptions) -> Rule:
        """The rule with the constants of a level in context."""
        slow = (options.slow_period, options.slow_momentum, options.slow_weight)
        return cls(
            beta1=options.momentum,
            beta2=options.square_momentum,
            slow=(slow,),
            eps=options.epsilon,
        )

    def unread(self) -> dict[str, str]:
        """The constants without effect, because of others, each with the reason."""
        if self.orthogonal:
            return {}
        unread = dict.fromkeys(("update_norm", "ns_steps", "ns_dtype"), "orthogonal=False")
        return unread | ({"style": "orthogonal=False"} if self.style == "delta" else {})

    @property
    def buffers(self) -> tuple[str, ...]:
        """M1, V and, per slow momentum, itself, the gradients since its write, and its output."""
        slow = (f"{name}{number}" for number in range(len(self.slow)) for name in KEPT)
        return ("m", "v", *slow)

    @property
    def records(self) -> tuple[GradientRecord, ...]:
        """M1, V, and a slow memory for each entry of ``slow``."""
        fast = "Hebbian with decay: M1 <- beta1 M1 + (1 - beta1) g"
        square = "delta rule: V <- beta2 V + (1 - beta2) g^2"
        slow = "Hebbian with decay: {0} <- beta3 {0} + (1 - beta3) mean of the gradients since"
        names = [f"M{number + 2}" for number in range(len(self.slow))]
        return (
            GradientRecord("M1", "-<M1, g>", fast, READ),
            GradientRecord("V", "|V - g^2|^2 / 2", square, SIZE),
            *(
                GradientRecord(name, f"-<{name}, mean of g>", slow.format(name), READ, int(period))
                for name, (period, *_) in zip(names, self.slow, strict=True)
            ),
        )

    def start(self, weight: Float[Tensor, "B *S"]) -> Buffers:
        """Zeros; the output of a slow memory has the dtype of Newton-Schulz."""
        kept = super().start(weight)
        if self.ns_dtype is None or weight.dtype == torch.float64 or not self.matrix(weight):
            return kept
        names = zip(self.buffers, kept, strict=True)
        return tuple(x.to(self.ns_dtype) if name.startswith("read") else x for name, x in names)

    def matrix(self, weight: Float[Tensor, "B *S"]) -> bool:
        """Whether the steps of a tensor are orthogonalised."""
        return weight.ndim > 2 and self.orthogonal

    def by_rows(self, dimensions: int) -> bool:
        """Whether a tensor uses Adam."""
        return dimensions < 2 or not self.orthogonal

    def step(
        self, eta: Rate, evidence: Evidence, buffers: Buffers, number: Int[Tensor, " B"]
    ) -> tuple[Float[Tensor, "B *S"], Buffers]:
        """One step of Algorithm 1."""
        g, (m, v, *rest) = evidence.gradient, buffers
        memories = [tuple(rest[i : i + 3]) for i in range(0, len(rest), 3)]
        matrix = self.matrix(g)

        # the fast memory of gradients, and their mean square
        m = self.remember(m, g, matrix)
        if not matrix or self.update_norm != "adamuon":
            v = self.square(v, g)

        # the step: the outputs of all memories over the root mean square
        u = self.read(m, v, number) if matrix else m / self.bias(self.beta1, number, m)
        if matrix and self.update_norm == "adamuon":
            v = self.square(v, u)
        for (_, _, alpha), (_, _, read) in zip(self.slow, memories, strict=True):
            u = u + alpha * read.to(u.dtype)
        change = -eta * self.sized(u, v, number, matrix)

        # once per period, each slow memory is written with the mean gradient of the period
        for place, (period, beta, _) in enumerate(self.slow):
            slow, total, read = memories[place]
            total = total + g
            full = number % int(period) == 0
            if bool(full.any()):
                after = self.take_up(slow, total, int(period), beta)
                seen_so_far = number // int(period)
                fresh = (
                    self.read(after, v, number)
                    if matrix
                    else after / self.bias(beta, seen_so_far, after)
                )
                slow, read = (
                    choose_rows(full, after, slow),
                    choose_rows(full, fresh.to(read.dtype), read),
                )
                total = choose_rows(full, torch.zeros_like(total), total)
            memories[place] = (slow, total, read)
        return change, (m, v, *(x for memory in memories for x in memory))

    def remember(self, m: Tensor, g: Tensor, matrix: bool) -> Tensor:
        """M1 <- beta1 M1 + (1 - beta1) g, or the variant given by the style."""
        if self.style == "paper":
            return m + self.beta1 * g
        if self.style == "delta" and matrix:
            keys = g.flatten(2)
            power = keys.square().sum(-1, keepdim=True) + SMALLEST**2
            forgotten = (inner_rows(m.flatten(2), keys) / power * keys).view_as(m)
            return torch.lerp(m, g, 1 - self.beta1) - (1 - self.beta1) * forgotten
        return torch.lerp(m, g, 1 - self.beta1)

    def square(self, v: Tensor, g: Tensor) -> Tensor:
        """V <- beta2 V + (1 - beta2) g^2, or the variant given by the style."""
        if self.style == "paper":
            return torch.addcmul(v, g, g, value=self.beta2)
        return torch.addcmul(self.beta2 * v, g, g, value=1 - self.beta2)

    def take_up(self, slow: Tensor, total: Tensor, period: int, beta: float | int) -> Tensor:
        """M2 <- beta3 M2 + (1 - beta3) mean of the gradients since, or the style's variant."""
        if self.style == "paper":
            return slow + beta * total
        return torch.lerp(slow, total / period, 1 - beta)

    def bias(self, beta: float | int, number: Int[Tensor, " B"], like: Tensor) -> Tensor | float:
        """The bias correction of a mean that started at zero; 1 for a sum."""
        return 1.0 if self.style == "paper" else bias_correction(beta, number, like)

    def below(self, v: Tensor, number: Int[Tensor, " B"]) -> Tensor:
        """sqrt(V) + eps, with bias-corrected V."""
        return root(v / self.bias(self.beta2, number, v)) + self.eps

    def read(self, m: Tensor, v: Tensor, number: Int[Tensor, " B"]) -> Tensor:
        """NS(M), or NS(M / (sqrt(V) + eps)) with "pre"."""
        taken = m / self.below(v, number) if self.update_norm == "pre" else m
        return orthogonal(taken, self.ns_steps, self.ns_dtype)

    def sized(self, u: Tensor, v: Tensor, number: Int[Tensor, " B"], matrix: bool) -> Tensor:
        """The step, scaled according to ``update_norm``."""
        if matrix and self.update_norm == "pre":
            return matched(u.shape[1:]) * u
        u = u / self.below(v, number)
        if not matrix or self.update_norm == "none":
            return u
        size = (0.2 if self.update_norm == "adamuon" else 1.0) * u[0].numel() ** 0.5
        norm = torch.linalg.vector_norm(u, dim=tuple(range(1, u.ndim))).clamp_min(1e-30)
        return u * wide(size / norm, u)


def choose_rows(rows: Bool[Tensor, " B"], new: Tensor, old: Tensor) -> Tensor:
    """``new`` in these rows, ``old`` in the others."""
    if bool(rows.all()):
        return new
    return torch.where(wide(rows.to(new.device), new), new, old)
