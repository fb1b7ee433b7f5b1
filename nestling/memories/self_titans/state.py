"""The state of the self-modifying Titans."""

from typing import NamedTuple

from jaxtyping import Float, Int
from torch import Tensor

from nestling.core.named import traceable
from nestling.memories.self_titans.layers import Layers
from nestling.memories.self_titans.options import SelfTitansOptions


@traceable
class SelfTitansState(NamedTuple):
    """The state of a row between calls.

    Weights are deviations from the learned initial state (with ``decay_to="zero"``: the weights
    themselves). ``anchor`` is from the start of the current period, ``weight`` and ``momentum`` are
    current, ``count`` is the tokens of the row's document so far. ``opened`` caches the sum of the
    anchor and the initial state for decoding; None: computed when needed.
    """

    tail: Float[Tensor, "B W C"]
    anchor: Layers
    weight: Layers
    momentum: Layers
    count: Int[Tensor, " B"]
    opened: Layers | None = None


def periods_of(config: SelfTitansOptions, memories: int) -> list[int]:
    """Tokens between two anchors, for each memory; the output memory comes last."""
    output, others = config.periods()
    return [others] * (memories - 1) + [output]
