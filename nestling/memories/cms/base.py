"""Shared code of the in-context continuum memory systems: levels, and one level along a row."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from nestling.core.level import Level
from nestling.core.memory import Flow, Memory
from nestling.core.transfer import Transfer
from nestling.memories.cms.network import Weights
from nestling.memories.cms.options import ContextConfig
from nestling.memories.cms.written import WrittenLevel, WrittenState
from nestling.memories.grid import Grid, grid
from nestling.memories.mlp import INITIAL_STD, default_intermediate_size
from nestling.memories.parts import matrix

NO_PERIOD = 1 << 40  # tokens: never within a call


class ContextMemory(Memory):
    """Levels that each row writes as it reads, and the projection of their targets.

    The levels and their matrices are named as in ``cms``, whose weights they can load.
    """

    grows: ClassVar[frozenset[str]] = frozenset({"W"})

    def __init__(self, config: ContextConfig, hidden_size: int):
        super().__init__()
        self.config = config
        # rows at different positions are read side by side, so aligning slow periods gains nothing
        self.alignment = config.periods[0]
        count = len(config.periods)
        width = config.intermediate_size or -(-default_intermediate_size(hidden_size) // count)
        self.chain = nn.ModuleList(
            WrittenLevel(config.level(index), config.loss, hidden_size, width)
            for index in range(count)
        )
        self.target = nn.Linear(hidden_size, hidden_size, bias=False)

    def each(self) -> list[WrittenLevel]:
        """The levels, fast to slow."""
        levels = [level for level in self.chain if isinstance(level, WrittenLevel)]
        assert len(levels) == len(self.chain)
        return levels

    @torch.no_grad()
    def init_levels(self, generator: torch.Generator | None) -> None:
        """Norms at one, normal weights of standard deviation 0.02, and a tenth of that for V.

        Early writes thus change the output little, until V has learned useful targets.
        """
        for level in self.each():
            level.init_weights(generator)
        self.target.weight.normal_(std=INITIAL_STD / 10, generator=generator)

    def handed_on(self, name: str) -> list[Transfer]:
        """Transfers of levels in series: each to the next slower one, the last to the layer."""
        slower = [f"{name}.{i}" for i in range(1, len(self.chain))]
        what = "its answer goes through it"
        return [Transfer(kind="direct", partner=p, what=what) for p in (*slower, "weights")]

    def boxes(self, name: str, transfers: Sequence[tuple[Transfer, ...]]) -> list[Level]:
        """The levels, fast to slow, each preceded by the memories of its rule."""
        return [
            box
            for index, (level, transfer) in enumerate(zip(self.each(), transfers, strict=True))
            for box in level.boxes(f"{name}.{index}", transfer)
        ]

    # These assume that the state is that of the levels, fast to slow; others override them.

    def init_state(self, batch: int) -> Any:
        """Each level at its learned initial state."""
        return tuple(level.init_state(batch) for level in self.each())

    def owned(self, state: Any) -> tuple[WrittenState, ...]:
        """The part of a state that holds the levels, fast to slow."""
        return state

    def with_owned(self, state: Any, owned: tuple[WrittenState, ...]) -> Any:
        """The state with these levels replaced."""
        return owned

    def starts(self, state: Any) -> list[Weights]:
        """The starting point of each level: [*S], or [B, *S] if every row has its own."""
        return [level.start() for level in self.each()]

    def write(self, state: Any, rows: Bool[Tensor, " B"]) -> Any:
        """Write the levels whose period is full in these rows, independently."""
        return tuple(
            level.write(own, rows & (own.level.seen % level.level.period == 0), level.start())
            for level, own in zip(self.each(), state, strict=True)
        )

    def goals(self, h: Float[Tensor, "*N D"]) -> Float[Tensor, "*N D"]:
        """The target V h of a level's pair for the previous token."""
        return functional.linear(h, matrix(self.target)[0].to(h.dtype))


def valid_places(places: Grid) -> Bool[Tensor, "B M R"]:
    """The places of a grid that hold a token."""
    return places.spread(torch.ones_like(places.place, dtype=torch.bool))


def along(
    memory: ContextMemory,
    level: WrittenLevel,
    x: Float[Tensor, "B T D"],
    state: WrittenState,
    flow: Flow,
) -> tuple[Float[Tensor, "B T D"], WrittenState]:
    """The outputs of one level along a sequence, period by period, for all rows together."""
    start, through = level.start(), memory.config.through
    local = level.level.objective == "local"
    places = grid(state.level.seen, flow, x.shape[1], level.level.period if local else NO_PERIOD)
    h = level.norm(x).to(start.gate.dtype)
    with torch.autocast(x.device.type, enabled=False):
        columns = (h, memory.goals(h)) if local else (h, h)
        columns = (*map(places.spread, columns), valid_places(places))
        opens, closes = places.opens.any(0).tolist(), places.closes.any(0).tolist()
        answers = []
        parts = zip(*(column.unbind(1) for column in columns), strict=True)
        for index, (own, goal, valid) in enumerate(parts):
            if opens[index]:
                state = level.reset(state, places.opens[:, index])
            answer, state = level.read(own, goal, valid, state, start, through)
            answers.append(answer)
            if closes[index] and local:
                state = level.write(state, places.closes[:, index], start)
        return places.collect(torch.stack(answers, dim=1)).to(x.dtype), state
