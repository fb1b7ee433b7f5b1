"""A SwiGLU network with explicit weights, one set per row, and their gradients."""

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from nestling.core.named import traceable


@traceable
class Weights(NamedTuple):
    """The three matrices of one level, for every row of a batch."""

    gate: Float[Tensor, "B F D"]
    up: Float[Tensor, "B F D"]
    output: Float[Tensor, "B D F"]


class Reading(NamedTuple):
    """The activations of a network, kept for the gradients."""

    gate: Float[Tensor, "B R F"]  # before SiLU
    up: Float[Tensor, "B R F"]
    hidden: Float[Tensor, "B R F"]  # SiLU(gate) up
    answer: Float[Tensor, "B R D"]

    def some(self, begin: int, end: int) -> "Reading":
        """The activations of the inputs from ``begin`` to ``end``."""
        return Reading(*(x[:, begin:end] for x in self))


def read(weights: Weights, inputs: Float[Tensor, "B R D"]) -> Reading:
    """``output (SiLU(gate x) * up x)`` for every input."""
    gate, up = inputs @ weights.gate.mT, inputs @ weights.up.mT
    hidden = functional.silu(gate) * up
    return Reading(gate, up, hidden, hidden @ weights.output.mT)


def gradients(
    weights: Weights,
    inputs: Float[Tensor, "B R D"],
    reading: Reading,
    slope: Float[Tensor, "B R D"],
) -> Weights:
    """Gradients of the three matrices, summed over the inputs, from the output gradients."""
    sigmoid = reading.gate.sigmoid()
    silu = reading.gate * sigmoid
    back = slope @ weights.output
    by_gate = back * reading.up * (sigmoid + silu * (1 - sigmoid))
    by_up = back * silu
    return Weights(by_gate.mT @ inputs, by_up.mT @ inputs, slope.mT @ reading.hidden)


def grams(
    inputs: Float[Tensor, "B R D"],
    reading: Reading,
    valid: Float[Tensor, "B R 1"],
) -> tuple[Float[Tensor, "B D D"], Float[Tensor, "B D D"], Float[Tensor, "B F F"]]:
    """Sums of x x^T over the valid inputs of each matrix."""
    outer = (inputs * valid).mT @ inputs
    return outer, outer, (reading.hidden * valid).mT @ reading.hidden
