"""The continuum memory system in context: levels in series, written separately for each row."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from nestling.core.level import Level
from nestling.core.memory import Flow
from nestling.core.transfer import LEARNED
from nestling.memories.cms.base import ContextMemory, along
from nestling.memories.cms.options import ContextConfig
from nestling.memories.cms.written import WrittenLevel, WrittenState


class CMSContext(ContextMemory):
    """Chain of residual MLP levels that each row writes at their periods as it reads (R1).

    ``x <- x + f_l(RMSNorm_l(x); theta_l)`` for the levels l from fast to slow. theta_l starts at
    the learned initial state in every document and is written once per period. All gradients of a
    period are taken at its opening weights, so that it is computed in parallel. Initial states,
    rates and the projection V of the targets are learned through the writes. With a rate of 0 it is
    the chain of ``cms``.

    With the objective "local" the memory writes itself; with "ntp" and "teach" it only reads, and
    the language model writes it (``nestling/models/in_context.py``).

    Source: arXiv 2512.24695, Eq 70, 71 and 73, regime R1. Deviates: residuals and norms; see
    ``WrittenLevel``. Cost: time of a static chain, plus twice that for the gradients; state: two
    copies of the levels' weights per row, and the memory of the rule.
    """

    residual: ClassVar[bool] = False
    update: ClassVar[str] = "each level in context, once in its period: theta <- theta + f(mean g)"
    source: ClassVar[str] = "arXiv 2512.24695 Eq 71, 73"
    float32: ClassVar[tuple[str, ...]] = WrittenLevel.FLOAT32

    @dataclass(frozen=True, kw_only=True)
    class Config(ContextConfig):
        """Options of the memory."""

    def __init__(self, config: Config, *, hidden_size: int, num_heads: int):
        super().__init__(config, hidden_size)

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator | None = None) -> None:
        """Norms at one, normal weights of standard deviation 0.02."""
        self.init_levels(generator)

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        state: tuple[WrittenState, ...] | None = None,
        flow: Flow = Flow(),
    ) -> tuple[Float[Tensor, "B T D"], tuple[WrittenState, ...]]:
        """Apply the levels to every position and write them; residuals included."""
        state = self.init_state(len(x)) if state is None else state
        if not x.shape[1]:
            return x, state
        after = []
        for level, own in zip(self.each(), state, strict=True):
            answer, own = along(self, level, x, own, flow)
            x = x + answer
            after.append(own)
        return x, tuple(after)

    def levels(self) -> list[Level]:
        """The levels of the chain, fast to slow, each after the memories of its rule."""
        return self.boxes("cms_context", [(LEARNED, on) for on in self.handed_on("cms_context")])
