"""What the self-modifying Titans carry from call to call."""

from typing import NamedTuple

from jaxtyping import Float, Int
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


def periods_of(config: SelfTitansOptions, memories: int) -> list[int]:
    """Tokens between two anchors of each memory; the output memory comes last."""
    output, others = config.periods()
    return [others] * (memories - 1) + [output]
