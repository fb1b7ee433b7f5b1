"""What the self-modifying Titans carry from call to call, and when their anchors move."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nestling.memories.self_titans.layers import Layers
from nestling.memories.self_titans.options import SelfTitansOptions


class SelfTitansState(NamedTuple):
    """All that a row carries from one call to the next.

    Weights are deviations from the learned initial state (with ``decay_to="zero"``: the weights
    themselves). ``anchor`` opened the running period, ``weight`` and ``momentum`` are where the
    recurrence stands inside it, ``count`` is the tokens of the row's document so far. ``opened``
    is the anchor added to the initial state, once decoding has needed it: it holds nothing of its
    own, and without it (None) it is summed anew.
    """

    tail: Float[Tensor, "B W C"]
    anchor: Layers
    weight: Layers
    momentum: Layers
    count: Int[Tensor, " B"]
    opened: Layers | None = None


def begun(state: SelfTitansState, start: Layers, reset: Bool[Tensor, " B"]) -> SelfTitansState:
    """The state with the rows that start a document at the initial state."""
    if not bool(reset.any()):
        return state

    def choose(new: Tensor, old: Tensor) -> Tensor:
        return torch.where(reset.view(-1, *(1,) * (old.ndim - 1)), new, old)

    return SelfTitansState(
        state.tail,
        start.map(choose, state.anchor),
        start.map(choose, state.weight),
        state.momentum.map(lambda x: choose(torch.zeros_like(x), x)),
        torch.where(reset, 0, state.count),
    )


def advance(
    config: SelfTitansOptions,
    memories: int,
    state: SelfTitansState,
    weight: Layers,
    momentum: Layers,
    valid: Bool[Tensor, "B C"] | None,
    length: int,
    ends: bool | None,
) -> SelfTitansState:
    """Move the anchor of every memory whose period has ended.

    ``ends`` says it for all rows and memories at once where that is known.
    """
    added = length if valid is None else valid.sum(1)
    count = state.count + added
    if ends is not None:
        anchor = weight if ends else state.anchor
        return SelfTitansState(state.tail, anchor, weight, momentum, count)
    output, others = config.periods()
    periods = [others] * (memories - 1) + [output]
    moves = count[:, None] % torch.tensor(periods, device=count.device) == 0
    if valid is not None:
        moves = moves & valid.any(1)[:, None]
    moves = moves[:, None, :, None, None]
    anchor = weight.map(lambda new, old: torch.where(moves, new, old), state.anchor)
    return SelfTitansState(state.tail, anchor, weight, momentum, count)
