"""Titans with memory as a layer (MAL): the long-term memory, then sliding-window attention."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nestling.core.level import Level
from nestling.core.memory import Flow, Memory
from nestling.core.named import traceable
from nestling.memories.attention import Attention, AttentionState
from nestling.memories.titans.lmm import LMMState
from nestling.memories.titans.memory import Titans
from nestling.memories.titans.options import MemoryOptions, WindowOptions, attention


@traceable
class MALState(NamedTuple):
    """The states of the two layers."""

    memory: LMMState
    attention: AttentionState


class TitansMAL(Memory):
    """``Attention(norm(Titans([P | x])))``, attention over a sliding window.

    The memory's outputs for the persistent tokens P precede those of a document, at positions -P
    to -1, and slide out of the window like any other.

    Source: arXiv 2501.00663, section 4.3. Deviates: as ``Titans``; a norm between the two, so that
    attention scores do not depend on the scale of the memory's output projection; rotary positions.
    Cost: that of ``Titans`` and of ``Attention`` with a window.
    """

    residual: ClassVar[bool] = True
    grows: ClassVar[frozenset[str]] = Attention.grows
    update: ClassVar[str] = "M as in titans; then pairs of a window of what M answers"
    source: ClassVar[str] = "arXiv 2501.00663 section 4.3"
    float32: ClassVar[tuple[str, ...]] = Titans.float32
    rates: ClassVar[Mapping[str, float]] = Titans.rates

    @dataclass(frozen=True, kw_only=True)
    class Config(WindowOptions):
        """Options of the memory."""

    def __init__(self, config: Config, *, hidden_size: int, num_heads: int):
        super().__init__()
        shape = {"hidden_size": hidden_size, "num_heads": num_heads}
        self.config = config
        self.alignment = config.period
        names = MemoryOptions.__dataclass_fields__
        options = Titans.Config(**{name: getattr(config, name) for name in names})
        self.memory = Titans(options, **shape)
        self.norm = nn.RMSNorm(hidden_size, eps=1e-6)
        self.attention = attention(config, config.window, **shape)

    def init_state(self, batch: int) -> MALState:
        """The memory after the persistent tokens are written, and no pairs."""
        return MALState(self.memory.init_state(batch), self.attention.init_state(batch))

    def forward(
        self, x: Float[Tensor, "B T D"], state: MALState | None = None, flow: Flow = Flow()
    ) -> tuple[Float[Tensor, "B T D"], MALState]:
        """One layer after the other; ``state=None`` starts fresh."""
        written, pairs = (None, None) if state is None else state
        m, written = self.memory(x, written, flow)
        prefix = self._prefix(pairs, flow)
        y, pairs = self.attention.mix(self.norm(m), pairs, flow, prefix, slides=True)
        return self.attention.output(y), MALState(written, pairs)

    def _prefix(self, pairs: AttentionState | None, flow: Flow) -> Float[Tensor, "P D"] | None:
        """The memory's outputs for the persistent tokens; None once no row's window has them."""
        if pairs is not None and flow.reset is None:
            beyond = pairs.seen + 1 >= self.config.window
            if bool(beyond.all()):
                return None
        answers = self.memory.read_persistent()
        return None if answers is None else self.norm(answers[0])

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator | None = None) -> None:
        """Initialise each part."""
        self.memory.init_weights(generator)
        self.norm.weight.fill_(1)
        self.attention.init_weights(generator)

    def levels(self) -> list[Level]:
        """Attention, the momentum and the network."""
        return [*self.attention.levels(), *self.memory.levels()]
