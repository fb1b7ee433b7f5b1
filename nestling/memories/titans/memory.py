"""Titans' long-term memory alone, between an input and an output projection."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from nestling.core.level import Level
from nestling.core.memory import Flow, Memory
from nestling.memories.titans.lmm import INITIAL_STD, LMMState, LongTermMemory
from nestling.memories.titans.options import MemoryOptions
from nestling.memories.titans.persistent import PersistentTokens


class Titans(Memory):
    """The neural long-term memory (LMM) as a sequence model: no attention.

    ``y = W_o (norm(M_t(q_t)) * silu(W_g x_t))``; M, its rules and its bounds are those of
    ``LongTermMemory``. Persistent tokens are read and written before each document's first token.

    Source: arXiv 2501.00663, sections 3 and 4.4. Deviates: as ``LongTermMemory``.
    Cost: that of ``LongTermMemory``, plus 5 D^2 per token for the projections.
    """

    residual: ClassVar[bool] = True
    update: ClassVar[str] = "S <- eta S - theta grad |M(k) - v|^2; M <- (1 - alpha) M + S"
    source: ClassVar[str] = "arXiv 2501.00663 section 3"
    float32: ClassVar[tuple[str, ...]] = LongTermMemory.FLOAT32
    rates: ClassVar[Mapping[str, float]] = LongTermMemory.RATES

    @dataclass(frozen=True, kw_only=True)
    class Config(MemoryOptions):
        """Options of the memory."""

    def __init__(self, config: Config, *, hidden_size: int, num_heads: int):
        super().__init__()
        self.config = config
        self.alignment = config.period
        self.memory = LongTermMemory(config, hidden_size=hidden_size, num_heads=num_heads)
        self.persistent = PersistentTokens(config.persistent, hidden_size)
        self.norm = nn.RMSNorm(hidden_size // num_heads, eps=1e-6)
        self.gate = nn.Linear(hidden_size, hidden_size, bias=False)
        self.output = nn.Linear(hidden_size, hidden_size, bias=False)

    def init_state(self, batch: int) -> LMMState:
        """The state after the persistent tokens are written."""
        return self.memory.init_state(batch, self.persistent())

    def forward(
        self, x: Float[Tensor, "B T D"], state: LMMState | None = None, flow: Flow = Flow()
    ) -> tuple[Float[Tensor, "B T D"], LMMState]:
        """Write and read along the sequence; ``state=None`` starts fresh."""
        y, state = self.memory(x, state, flow, self.persistent())
        return self._close(y, x), state

    def read_persistent(self) -> Float[Tensor, "1 P D"] | None:
        """The memory's outputs for the persistent tokens."""
        tokens = self.persistent()
        y, _ = self.memory.open(tokens)
        return None if y is None or tokens is None else self._close(y, tokens[None])

    def _close(
        self, y: Float[Tensor, "B T D"], x: Float[Tensor, "B T D"]
    ) -> Float[Tensor, "B T D"]:
        y = self.norm(y.unflatten(-1, (self.memory.num_heads, -1))).flatten(-2)
        return self.output(y * functional.silu(self.gate(x)))

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator | None = None) -> None:
        """Normal weights of standard deviation 0.02; persistent tokens of unit variance."""
        self.memory.init_weights(generator)
        self.persistent.init_weights(generator)
        self.norm.weight.fill_(1)
        for linear in (self.gate, self.output):
            linear.weight.normal_(std=INITIAL_STD, generator=generator)

    def levels(self) -> list[Level]:
        """The momentum and the network."""
        return self.memory.levels()
