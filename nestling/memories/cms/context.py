"""The continuum memory system in context: levels in series, each row writes its own."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nestling.core.level import Level
from nestling.core.memory import Flow, Memory
from nestling.memories.cms.options import ContextConfig
from nestling.memories.cms.written import WrittenLevel, WrittenState
from nestling.memories.grid import grid
from nestling.memories.mlp import INITIAL_STD, default_intermediate_size

NO_PERIOD = 1 << 40  # tokens: never within a call


def written_levels(config: ContextConfig, hidden_size: int) -> nn.ModuleList:
    """The levels of a configuration, fast to slow, of equal width."""
    count = len(config.periods)
    width = config.intermediate_size or -(-default_intermediate_size(hidden_size) // count)
    return nn.ModuleList(
        WrittenLevel(config.level(index), hidden_size, width) for index in range(count)
    )


class CMSContext(Memory):
    """Chain of residual MLP levels that each row writes at their periods as it reads (R1).

    ``x <- x + f_l(RMSNorm_l(x); theta_l)`` for the levels l from fast to slow. theta_l starts from
    the learned initial state at every document and is written once in its period, from the
    gradients of the period's tokens at the weights that opened it, so that a period is computed in
    one piece. Initial states, rates and the projection V of the targets are learned through the
    writes. With the rate 0 it is the chain of ``cms``.

    The objective "local" is the memory's own; for "ntp" and "teach" the memory only reads, and the
    language model writes (``nestling/models/in_context.py``).

    Source: arXiv 2512.24695, Eq 70, 71 and 73, regime R1. Deviates: residuals and norms; see
    ``WrittenLevel``. Cost: time of a static chain and twice that again for the gradients; state 2
    parameters a row, and what the rule remembers.
    """

    residual: ClassVar[bool] = False
    update: ClassVar[str] = "each level in context, once in its period: theta <- theta + f(mean g)"
    source: ClassVar[str] = "arXiv 2512.24695 Eq 71, 73"

    @dataclass(frozen=True, kw_only=True)
    class Config(ContextConfig):
        """Options of the memory."""

    def __init__(self, config: Config, *, hidden_size: int, num_heads: int):
        super().__init__()
        self.config = config
        self.alignment = config.periods[-1]
        self.chain = written_levels(config, hidden_size)
        self.target = nn.Linear(hidden_size, hidden_size, bias=False)

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator | None = None) -> None:
        """Norms at one, normal weights of standard deviation 0.02."""
        for level in self.each():
            level.init_weights(generator)
        self.target.weight.normal_(std=INITIAL_STD, generator=generator)

    def each(self) -> list[WrittenLevel]:
        """The levels, fast to slow."""
        levels = [level for level in self.chain if isinstance(level, WrittenLevel)]
        assert len(levels) == len(self.chain)
        return levels

    def init_state(self, batch: int) -> tuple[WrittenState, ...]:
        """Each level at its learned initial state."""
        return tuple(level.init_state(batch) for level in self.each())

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        state: tuple[WrittenState, ...] | None = None,
        flow: Flow = Flow(),
    ) -> tuple[Float[Tensor, "B T D"], tuple[WrittenState, ...]]:
        """Read every position through the levels and write them; residuals included."""
        state = self.init_state(len(x)) if state is None else state
        if not x.shape[1]:
            return x, state
        after = []
        for level, own in zip(self.each(), state, strict=True):
            answer, own = along(level, level.norm(x), self.target, own, flow, self.config.through)
            x = x + answer
            after.append(own)
        return x, tuple(after)

    def levels(self) -> list[Level]:
        """The levels of the chain, fast to slow, each behind what its rule remembers."""
        count = len(self.chain)
        return [
            box
            for index, level in enumerate(self.each())
            for box in level.boxes(
                f"cms_context.{index}",
                "initialisation: learned through the writes; "
                + (
                    f"reads through cms_context.{index + 1}" if index + 1 < count else "the slowest"
                ),
            )
        ]


def along(
    level: WrittenLevel,
    h: Float[Tensor, "B T D"],
    target: nn.Linear,
    state: WrittenState,
    flow: Flow,
    through: str,
) -> tuple[Float[Tensor, "B T D"], WrittenState]:
    """One level along a sequence, period by period, those of all rows side by side."""
    start = level.start()
    local = level.level.objective == "local"
    period = level.level.period if local else NO_PERIOD
    places = grid(state.level.seen, flow, h.shape[1], period)
    with torch.autocast(h.device.type, enabled=False):
        inputs = h.to(start.gate.dtype)
        goals = nn.functional.linear(inputs, target.weight.to(inputs.dtype)) if local else inputs
        valid = places.spread(torch.ones_like(inputs[..., 0])) > 0
        columns = (places.spread(inputs), places.spread(goals), valid)
        parts = zip(*(part.unbind(1) for part in columns), strict=True)
        opens, closes = places.opens.any(0).tolist(), places.closes.any(0).tolist()
        answers = []
        for index, (own, goal, real) in enumerate(parts):
            if opens[index]:
                state = level.reset(state, places.opens[:, index])
            answer, state = level.read(own, goal, real, state, start, through)
            answers.append(answer)
            if closes[index] and local:
                state = level.write(state, places.closes[:, index], start)
        return places.collect(torch.stack(answers, dim=1)).to(h.dtype), state
