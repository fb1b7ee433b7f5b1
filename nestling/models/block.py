"""One block: a memory on the residual stream."""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nestling.core.memory import Flow, Memory


class Block(nn.Module):
    """``x + memory(RMSNorm(x))``, or ``memory(x)`` for a memory with residuals of its own."""

    def __init__(self, name: str, memory: Memory, *, hidden_size: int, norm_eps: float):
        super().__init__()
        self.name = name
        self.norm = nn.RMSNorm(hidden_size, eps=norm_eps) if memory.residual else None
        self.memory = memory

    def forward(
        self, x: Float[Tensor, "B T D"], state: Any, flow: Flow
    ) -> tuple[Float[Tensor, "B T D"], Any]:
        """Read and write along the sequence; return the new stream and the memory's state."""
        if self.norm is None:
            return self.memory(x, state, flow)
        y, state = self.memory(self.norm(x), state, flow)
        return x + y, state


@torch.no_grad()
def scale_outputs(memory: Memory, blocks: int) -> None:
    """Divide what a memory adds to the stream by sqrt(blocks), so that depth does not add up.

    By convention the projection back to the stream is called ``output`` in every memory.
    Source: the initialisation of GPT-2 (residual layers scaled by 1 / sqrt(N)).
    """
    for name, module in memory.named_modules():
        if name.split(".")[-1] == "output" and isinstance(module, nn.Linear):
            module.weight.mul_(1 / math.sqrt(blocks))
