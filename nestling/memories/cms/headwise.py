"""The head-wise continuum memory system: parallel levels, mixed separately in each head."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nestling.core.error import UserError
from nestling.core.level import Level
from nestling.core.memory import Flow
from nestling.core.transfer import LEARNED, Transfer
from nestling.memories.cms.base import ContextMemory, along
from nestling.memories.cms.options import ContextConfig
from nestling.memories.cms.written import WrittenLevel, WrittenState


class CMSHeadwise(ContextMemory):
    """Parallel levels in context, which all get the same input.

        y = x + sum over l of w_l f_l(RMSNorm_l(x); theta_l)

    w_l is a learned weight for each head (``hidden_size / num_heads`` channels), a softmax over the
    levels; at the start all are equal. The levels are written as in ``cms_context``.

    Source: arXiv 2512.24695, Eq 74, regime R1. Deviates: residual and norms; the paper leaves Agg
    open ("a learnable weighted sum" is its simple form), here it is such a sum in each head.
    Cost: that of ``cms_context``.
    """

    residual: ClassVar[bool] = False
    update: ClassVar[str] = "as cms_context, the levels side by side"
    source: ClassVar[str] = "arXiv 2512.24695 Eq 74"
    float32: ClassVar[tuple[str, ...]] = (*WrittenLevel.FLOAT32, "mixture")

    @dataclass(frozen=True, kw_only=True)
    class Config(ContextConfig):
        """Options of the memory."""

    def __init__(self, config: Config, *, hidden_size: int, num_heads: int):
        super().__init__(config, hidden_size)
        if hidden_size % num_heads:
            raise UserError(f"hidden_size {hidden_size} does not split into {num_heads} heads")
        self.mixture = nn.Parameter(torch.empty(len(config.periods), num_heads))

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator | None = None) -> None:
        """Norms at one, normal weights of standard deviation 0.02, an equal mixture."""
        self.init_levels(generator)
        self.mixture.zero_()

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        state: tuple[WrittenState, ...] | None = None,
        flow: Flow = Flow(),
    ) -> tuple[Float[Tensor, "B T D"], tuple[WrittenState, ...]]:
        """Apply every level to every position and write them; the residual included."""
        state = self.init_state(len(x)) if state is None else state
        if not x.shape[1]:
            return x, state
        shares = self.mixture.softmax(0).to(x.dtype)
        shares = shares.repeat_interleave(x.shape[-1] // self.mixture.shape[1], dim=1)
        y, after = x, []
        for level, share, own in zip(self.each(), shares, state, strict=True):
            answer, own = along(self, level, x, own, flow)
            y = y + share * answer
            after.append(own)
        return y, tuple(after)

    def levels(self) -> list[Level]:
        """The levels, fast to slow, each after the memories of its rule."""
        mixed = Transfer(
            kind="direct", partner="weights", what="weights mix the outputs of the levels"
        )
        return self.boxes("cms_headwise", [(LEARNED, mixed)] * len(self.chain))
