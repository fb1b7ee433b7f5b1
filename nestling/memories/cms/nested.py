"""The nested continuum memory system: a slow level learns the starting point of the fast one."""

import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from nestling.core.error import UserError
from nestling.core.level import Level
from nestling.core.memory import Flow
from nestling.core.named import traceable
from nestling.core.options import refuse_unread
from nestling.core.transfer import LEARNED, Transfer
from nestling.memories.cms.base import ContextMemory, valid_places
from nestling.memories.cms.network import Weights
from nestling.memories.cms.options import ContextConfig
from nestling.memories.cms.written import WrittenLevel, WrittenState
from nestling.memories.grid import grid
from nestling.rules.level import bound


@traceable
class NestedState(NamedTuple):
    """One level and its starting point, for every row."""

    own: WrittenState
    shift: tuple[Tensor, ...]  # the row's start minus the learned one; empty for the slowest


class CMSNested(ContextMemory):
    """Chain of levels in context in which a slower level sets the start of the next faster one.

    As ``cms_context``, but when level s is written, after ceil(C_s / C_f) writes of the next
    faster level f, f's start in the row moves towards its weights by a learned share, and f is
    reset to it:

        start_f <- start_f + e (theta_f - start_f);  theta_f <- start_f, its rule's memory is zero

    So the start of the fast level collects what its contexts have in common. A start stays within
    the trust region of the learned initial state. A new document resets everything to it.

    Source: arXiv 2512.24695, Eq 72, regime R1, with the step of arXiv 1803.02999 (Reptile) for the
    inner argmin. Deviates: the share e is learned by the outer optimizer; the ratio of periods is
    an integer. Cost: that of ``cms_context``, with the sequence cut at the fastest period for all
    levels.
    """

    residual: ClassVar[bool] = False
    update: ClassVar[str] = "as cms_context; a slow write moves a fast level's start and resets it"
    source: ClassVar[str] = "arXiv 2512.24695 Eq 72"
    float32: ClassVar[tuple[str, ...]] = (*WrittenLevel.FLOAT32, "share_logit")

    @dataclass(frozen=True, kw_only=True)
    class Config(ContextConfig):
        """Options of the memory."""

        share: float = 0.1  # e at the start of training

        def __post_init__(self):
            super().__post_init__()
            if not 0 < self.share < 1:
                raise UserError(f"cms_nested.share is {self.share}; give a number between 0 and 1")
            if len(self.periods) == 1:
                refuse_unread("cms_nested", self, {"share": "one level"})

    def __init__(self, config: Config, *, hidden_size: int, num_heads: int):
        super().__init__(config, hidden_size)
        self.share = config.share
        self.share_logit = nn.Parameter(torch.empty(len(config.periods) - 1))

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator | None = None) -> None:
        """Norms at one, normal weights of standard deviation 0.02, shares as configured."""
        self.init_levels(generator)
        self.share_logit.fill_(math.log(self.share / (1 - self.share)))

    def init_state(self, batch: int) -> tuple[NestedState, ...]:
        """Each level and its start in each row, at the learned initial state."""
        states = [level.init_state(batch) for level in self.each()]
        shifts = [tuple(map(torch.zeros_like, s.level.moved)) for s in states[:-1]]
        return tuple(map(NestedState, states, [*shifts, ()]))

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        state: tuple[NestedState, ...] | None = None,
        flow: Flow = Flow(),
    ) -> tuple[Float[Tensor, "B T D"], tuple[NestedState, ...]]:
        """Apply the levels to every position and write them; residuals included."""
        states = list(self.init_state(len(x)) if state is None else state)
        if not x.shape[1]:
            return x, tuple(states)
        places = grid(states[0].own.level.seen, flow, x.shape[1], self.config.periods[0])
        opens, closes = places.opens.any(0).tolist(), places.closes.any(0).tolist()
        parts = zip(places.spread(x).unbind(1), valid_places(places).unbind(1), strict=True)
        outputs = []
        with torch.autocast(x.device.type, enabled=False):
            for index, (part, valid) in enumerate(parts):
                if opens[index]:
                    states = self._reset(states, places.opens[:, index])
                for number, level in enumerate(self.each()):
                    part, states[number] = self._read(level, part, valid, states[number])
                outputs.append(part)
                if closes[index] and self.config.objective == "local":
                    states = list(self.write(tuple(states), places.closes[:, index]))
        return places.collect(torch.stack(outputs, dim=1)), tuple(states)

    def _read(
        self,
        level: WrittenLevel,
        x: Float[Tensor, "B R D"],
        valid: Bool[Tensor, "B R"],
        state: NestedState,
    ) -> tuple[Float[Tensor, "B R D"], NestedState]:
        start = starts(level, state)
        h = level.norm(x.to(level.norm.weight.dtype)).to(start.gate.dtype)
        through = self.config.through
        answer, own = level.read(h, self.goals(h), valid, state.own, start, through)
        return x + answer.to(x.dtype), state._replace(own=own)

    def _reset(self, states: list[NestedState], rows: Bool[Tensor, " B"]) -> list[NestedState]:
        return [
            NestedState(
                level.reset(state.own, rows),
                tuple(s.masked_fill(rows[:, None, None], 0) for s in state.shift),
            )
            for level, state in zip(self.each(), states, strict=True)
        ]

    def write(
        self, state: tuple[NestedState, ...], rows: Bool[Tensor, " B"]
    ) -> tuple[NestedState, ...]:
        """Write the levels whose period is full in these rows; slower ones reset faster ones."""
        after, ends = [], []
        for level, own in zip(self.each(), state, strict=True):
            ends.append(rows & (own.own.level.seen % level.level.period == 0))
            new = level.write(own.own, ends[-1], starts(level, own))
            after.append(own._replace(own=new))
        for fast, level in enumerate(self.each()[:-1]):
            if bool(ends[fast + 1].any()):
                after[fast] = self._restart(fast, level, after[fast], ends[fast + 1])
        return tuple(after)

    def owned(self, state: tuple[NestedState, ...]) -> tuple[WrittenState, ...]:
        """Everything except the rows' starting points."""
        return tuple(own.own for own in state)

    def with_owned(
        self, state: tuple[NestedState, ...], owned: tuple[WrittenState, ...]
    ) -> tuple[NestedState, ...]:
        """The same starting points with these levels."""
        return tuple(a._replace(own=b) for a, b in zip(state, owned, strict=True))

    def starts(self, state: tuple[NestedState, ...]) -> list[Weights]:
        """The starting point of each level, in each row."""
        return [starts(level, own) for level, own in zip(self.each(), state, strict=True)]

    def _restart(
        self, fast: int, level: WrittenLevel, state: NestedState, rows: Bool[Tensor, " B"]
    ) -> NestedState:
        """Move the starting point of a fast level in these rows, and reset the level to it."""
        share = self.share_logit[fast].to(state.shift[0].dtype).sigmoid()
        way = zip(state.shift, state.own.level.moved, strict=True)
        shift = bound(level.level, level.start(), tuple(s + share * m for s, m in way))
        shift = tuple(
            torch.where(rows[:, None, None], new, old)
            for new, old in zip(shift, state.shift, strict=True)
        )
        return NestedState(level.rewind(state.own, rows), shift)

    def levels(self) -> list[Level]:
        """The levels of the chain, fast to slow, each after the memories of its rule."""
        what = "its start is moved and it is reset to it when that one is written"
        *faster, slowest = self.handed_on("cms_nested")
        transfers = [
            (Transfer(kind="initialisation", partner=on.partner, what=what), LEARNED, on)
            for on in faster
        ]
        return self.boxes("cms_nested", [*transfers, (LEARNED, slowest)])


def starts(level: WrittenLevel, state: NestedState) -> Weights:
    """The starting point of a level, in each row."""
    start = level.start()
    return Weights(*map(torch.add, start, state.shift)) if state.shift else start
