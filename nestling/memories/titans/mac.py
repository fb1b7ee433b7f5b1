"""Titans with memory as a context (MAC): attention to a segment and to what memory recalls.

It iterates over segments itself instead of using ``nestling.memories.period.read_by_period``: its
state also holds the pairs of attention, and a new document resets only the memory.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from nestling.core.level import Level
from nestling.core.memory import Flow, Memory
from nestling.core.named import traceable
from nestling.memories.attention import rotate
from nestling.memories.parts import ShortConvolution, unit
from nestling.memories.period import start_rows
from nestling.memories.segments import segments
from nestling.memories.titans.gating import Gating
from nestling.memories.titans.lmm import INITIAL_STD, LMMState, LongTermMemory
from nestling.memories.titans.options import AttentionOptions, attention
from nestling.memories.titans.persistent import PersistentTokens


@traceable
class Pairs(NamedTuple):
    """Rotated keys, and values, by their place in the segment; later places are undefined."""

    keys: Float[Tensor, "B C G K"]
    values: Float[Tensor, "B C G K"]


@traceable
class MACState(NamedTuple):
    """The state of a row: the memory, the recalled and read pairs of its segment, and a tail."""

    memory: LMMState
    recalled: Pairs
    read: Pairs
    tail: Float[Tensor, "B W D"]  # last inputs of the convolution before a recall


class TitansMAC(Memory):
    """Attention over [P | h | S], segment by segment; its outputs are written to the memory.

        h_i = norm(M_{t-1}(q_i)),  q = unit(silu(conv(S W_Q)))      M as the last segment left it
        y_i = Attention of S_i to P, to h_j and to S_j, j <= i
        M_t = M_{t-1} written with y, token by token, gradients at M_{t-1}
        o_i = W_o (norm(y_i) * silu(norm(M_i(y_i))))

    M is a ``LongTermMemory`` on y whose period is the segment. P are the persistent tokens; they
    are in the context of every segment and are not written.

    Source: arXiv 2501.00663, section 4.1, made causal: token i sees no h_j with j > i, because h_j
    depends on token j, and M_i is the memory after the write of token i, not of the segment's last.
    Deviates: as ``LongTermMemory`` and ``Gating``; h is normalised per head; rotary positions as in
    the sequence [P | h | S].
    Cost: that of ``LongTermMemory``, plus attention to P + 2 C places per token and a state of
    4 C D / (heads per group).
    """

    residual: ClassVar[bool] = True
    update: ClassVar[str] = "y = Attention([P | M(q) | segment]); M as in titans, written with y"
    source: ClassVar[str] = "arXiv 2501.00663 section 4.1"
    float32: ClassVar[tuple[str, ...]] = LongTermMemory.FLOAT32
    rates: ClassVar[Mapping[str, float]] = LongTermMemory.RATES

    @dataclass(frozen=True, kw_only=True)
    class Config(AttentionOptions):
        """Options of the memory."""

        period: int = 64  # tokens of a segment, and between two anchors

    def __init__(self, config: Config, *, hidden_size: int, num_heads: int):
        super().__init__()
        shape = {"hidden_size": hidden_size, "num_heads": num_heads}
        self.config = config
        self.alignment = config.period
        self.num_heads = num_heads
        self.memory = LongTermMemory(config, **shape)
        self.recall = nn.Linear(hidden_size, hidden_size, bias=False)
        self.recall_convolution = ShortConvolution(hidden_size, config.convolution)
        self.recall_norm = nn.RMSNorm(hidden_size // num_heads, eps=1e-6)
        self.attention = attention(config, None, **shape)
        self.persistent = PersistentTokens(config.persistent, hidden_size)
        self.gating = Gating(hidden_size)

    def init_state(self, batch: int) -> MACState:
        """The initial memory, and an empty segment."""
        keys = self.attention.init_state(batch).keys
        empty = keys.new_zeros(batch, self.config.period, *keys.shape[2:])
        pairs = Pairs(empty, empty)
        tail = self.recall_convolution.init_tail(batch)
        return MACState(self.memory.init_state(batch, None), pairs, pairs, tail)

    def forward(
        self, x: Float[Tensor, "B T D"], state: MACState | None = None, flow: Flow = Flow()
    ) -> tuple[Float[Tensor, "B T D"], MACState]:
        """Attend and write, segment by segment; ``state=None`` starts fresh."""
        start = self.memory.init_state(len(x), None) if flow.reset is not None else None
        state = self.init_state(len(x)) if state is None else state
        q, tail = self.recall_convolution(self.recall(x), state.tail, flow)
        q = q.to(torch.promote_types(q.dtype, torch.float32))
        q = unit(q.unflatten(-1, (self.num_heads, -1))).transpose(1, 2)
        outputs, count = [], state.memory.count
        for begin, end, ends in segments(count, flow, x.shape[1], self.config.period):
            here = slice(begin, end)
            reset = None
            if flow.reset is not None and start is not None:
                state = state._replace(memory=start_rows(state.memory, start, flow.reset[:, begin]))
                reset = flow.reset[:, here] if bool(flow.reset[:, begin].any()) else None
            valid = None if flow.mask is None else flow.mask[:, here]
            o, state = self._segment(x[:, here], q[:, :, here], state, Flow(reset, valid), ends)
            outputs.append(o)
        o = torch.cat(outputs, dim=1) if outputs else x
        return self.attention.output(o), state._replace(tail=tail)

    def _segment(
        self,
        x: Float[Tensor, "B N D"],
        q: Float[Tensor, "B H N K"],
        state: MACState,
        flow: Flow,
        ends: bool | None,
    ) -> tuple[Float[Tensor, "B N D"], MACState]:
        """Read and write tokens that lie in one segment of their row."""
        with torch.autocast(x.device.type, enabled=False):
            h = self.memory.recall(state.memory, q)
        h = self.recall_norm(h.to(x.dtype)).transpose(1, 2).flatten(2)
        places = self._places(state.memory.count, x.shape[1], flow.mask)
        y, recalled, read = self._attend(x, h, places, state)
        rows, tail = self.memory.project(y, state.memory.tail, flow)
        memory = state.memory._replace(tail=tail)
        m, memory = self.memory.advance(rows, memory, flow.mask, ends)
        m = m.to(x.dtype).transpose(1, 2).flatten(2)
        return self.gating(y, m), MACState(memory, recalled, read, state.tail)

    def _places(
        self, count: Int[Tensor, " B"], length: int, valid: Bool[Tensor, "B N"] | None
    ) -> Int[Tensor, "B N"]:
        """Place of each token in its row's segment; masked ones get C, after all others."""
        first = (count % self.config.period)[:, None]
        if valid is None:
            return first + torch.arange(length, device=count.device)
        places = first + valid.long().cumsum(1) - 1
        return torch.where(valid, places, self.config.period)

    def _attend(
        self,
        x: Float[Tensor, "B N D"],
        h: Float[Tensor, "B N D"],
        places: Int[Tensor, "B N"],
        state: MACState,
    ) -> tuple[Float[Tensor, "B N D"], Pairs, Pairs]:
        """Outputs of attention over [P | h | S], and the pairs of the segment so far."""
        attention, period = self.attention, self.config.period
        theta, width = self.config.rope_theta, attention.head_size
        persistent = self.persistent()
        kept = 0 if persistent is None else len(persistent)
        q = attention.query(x).unflatten(-1, (-1, width))
        q = rotate(q, kept + period + places, theta)
        read = self._put(state.read, x, places, kept + period)
        recalled = self._put(state.recalled, h, places, kept)
        keys, values = [recalled.keys, read.keys], [recalled.values, read.values]
        seen = places[:, :, None] >= torch.arange(period, device=x.device)
        allowed = [seen, seen]
        if persistent is not None:
            pairs = self._pairs(persistent[None])
            at = torch.arange(kept, device=x.device)[None]
            keys.insert(0, rotate(pairs.keys, at, theta).expand(len(x), -1, -1, -1))
            values.insert(0, pairs.values.expand(len(x), -1, -1, -1))
            allowed.insert(0, seen.new_ones(*places.shape, kept))
        y = attention.attend(
            q,
            torch.cat(keys, 1).to(q.dtype),
            torch.cat(values, 1).to(q.dtype),
            torch.cat(allowed, -1)[:, None],
        )
        return y.flatten(-2), recalled, read

    def _pairs(self, x: Float[Tensor, "B N D"]) -> Pairs:
        width = self.attention.head_size
        return Pairs(
            self.attention.key(x).unflatten(-1, (-1, width)),
            self.attention.value(x).unflatten(-1, (-1, width)),
        )

    def _put(
        self, pairs: Pairs, x: Float[Tensor, "B N D"], places: Int[Tensor, "B N"], offset: int
    ) -> Pairs:
        """The segment's pairs, with those of x stored at their places."""
        new = self._pairs(x)
        new = Pairs(rotate(new.keys, offset + places, self.config.rope_theta), new.values)

        def put(old: Tensor, now: Tensor) -> Tensor:
            # one extra place takes the masked tokens
            wide = torch.cat((old, old[:, :1]), dim=1).to(now.dtype)
            index = places[:, :, None, None].expand_as(now)
            return wide.scatter(1, index, now)[:, :-1]

        return Pairs(*map(put, pairs, new))

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator | None = None) -> None:
        """Initialise each part; persistent tokens have unit variance."""
        self.memory.init_weights(generator)
        self.attention.init_weights(generator)
        self.recall.weight.normal_(std=INITIAL_STD, generator=generator)
        self.recall_convolution.init_weights(generator)
        self.recall_norm.weight.fill_(1)
        self.persistent.init_weights(generator)
        self.gating.init_weights()

    def levels(self) -> list[Level]:
        """Attention, the momentum and the network."""
        return [*self.attention.levels(), *self.memory.levels()]
