"""Titans with memory as a gate (MAG): sliding-window attention beside the long-term memory."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from nestling.core.level import Level
from nestling.core.memory import Flow, Memory
from nestling.core.named import traceable
from nestling.memories.attention import Attention, AttentionState
from nestling.memories.titans.gating import Gating
from nestling.memories.titans.lmm import LMMState, LongTermMemory
from nestling.memories.titans.options import WindowOptions, attention
from nestling.memories.titans.persistent import PersistentTokens


@traceable
class MAGState(NamedTuple):
    """The states of the two branches."""

    attention: AttentionState
    memory: LMMState


class TitansMAG(Memory):
    """``W_o (norm(Attention([P | x])) * silu(norm(M([P | x]))))``.

    Attention sees a sliding window and always the persistent tokens P as a prefix; M has read and
    written the same P before the first token of a document.

    Source: arXiv 2501.00663, section 4.2. Deviates: as ``LongTermMemory`` and ``Gating``; rotary
    positions, with P just before the first token.
    Cost: that of ``Attention`` with a window and of ``LongTermMemory``.
    """

    residual: ClassVar[bool] = True
    grows: ClassVar[frozenset[str]] = Attention.grows
    update: ClassVar[str] = "pairs of a window; beside it M as in titans, and y gated by M(q)"
    source: ClassVar[str] = "arXiv 2501.00663 section 4.2"
    float32: ClassVar[tuple[str, ...]] = LongTermMemory.FLOAT32
    rates: ClassVar[Mapping[str, float]] = LongTermMemory.RATES

    @dataclass(frozen=True, kw_only=True)
    class Config(WindowOptions):
        """Options of the memory."""

    def __init__(self, config: Config, *, hidden_size: int, num_heads: int):
        super().__init__()
        shape = {"hidden_size": hidden_size, "num_heads": num_heads}
        self.config = config
        self.alignment = config.period
        self.memory = LongTermMemory(config, **shape)
        self.attention = attention(config, config.window, **shape)
        self.persistent = PersistentTokens(config.persistent, hidden_size)
        self.gating = Gating(hidden_size)

    def init_state(self, batch: int) -> MAGState:
        """No pairs, and the memory after the persistent tokens are written."""
        return MAGState(
            self.attention.init_state(batch), self.memory.init_state(batch, self.persistent())
        )

    def forward(
        self, x: Float[Tensor, "B T D"], state: MAGState | None = None, flow: Flow = Flow()
    ) -> tuple[Float[Tensor, "B T D"], MAGState]:
        """Both branches side by side; ``state=None`` starts fresh."""
        pairs, written = (None, None) if state is None else state
        persistent = self.persistent()
        y, pairs = self.attention.mix(x, pairs, flow, persistent)
        m, written = self.memory(x, written, flow, persistent)
        return self.attention.output(self.gating(y, m)), MAGState(pairs, written)

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator | None = None) -> None:
        """Initialise each part; persistent tokens have unit variance."""
        self.memory.init_weights(generator)
        self.attention.init_weights(generator)
        self.persistent.init_weights(generator)
        self.gating.init_weights()

    def levels(self) -> list[Level]:
        """Attention, the momentum and the network."""
        return [*self.attention.levels(), *self.memory.levels()]
