"""One block: a memory on the residual stream."""

import math
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nestling.core.level import Level
from nestling.core.memory import Flow, Memory, truncated


class Block(nn.Module):
    """``x + memory(RMSNorm(x))``, or ``memory(x)`` for a memory with its own residuals.

    ``truncate``: gradients through the state are cut after this many tokens of a call.
    """

    def __init__(
        self,
        name: str,
        memory: Memory,
        *,
        hidden_size: int,
        norm_eps: float,
        truncate: int | None = None,
    ):
        super().__init__()
        self.name = name
        self.truncate = truncate
        self.norm = nn.RMSNorm(hidden_size, eps=norm_eps) if memory.residual else None
        self.memory = memory

    def forward(
        self, x: Float[Tensor, "B T D"], state: Any, flow: Flow
    ) -> tuple[Float[Tensor, "B T D"], Any]:
        """Read and write along the sequence; returns the new stream and the memory's state."""
        if self.norm is None:
            return truncated(self.memory, x, state, flow, self.truncate)
        y, state = truncated(self.memory, self.norm(x), state, flow, self.truncate)
        return x + y, state

    def levels(self) -> list[Level]:
        """The levels of the memory, and how far back gradients flow through its state."""
        levels = self.memory.levels()
        if self.truncate is None:
            return levels
        ends = f"; outer gradients through it end after {self.truncate} tokens"
        return [
            replace(level, context=level.context + ends) if level.per_sequence else level
            for level in levels
        ]


@torch.no_grad()
def scale_outputs(memory: Memory, blocks: int) -> None:
    """Divide a memory's output projection by sqrt(blocks), so that depth does not add up.

    By convention this projection is called ``output`` in every memory.
    Source: the initialisation of GPT-2 (residual layers scaled by 1 / sqrt(N)).
    """
    for name, module in memory.named_modules():
        if name.split(".")[-1] == "output" and isinstance(module, nn.Linear):
            module.weight.mul_(1 / math.sqrt(blocks))
