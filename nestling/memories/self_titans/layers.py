"""The weights of a layer's memories, and the residual network they define."""

from collections.abc import Callable
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from nestling.core.named import traceable
from nestling.memories.self_titans.options import SelfTitansOptions
from nestling.ops.momentum_gated_delta_rule.passes import read_rows, shift


@traceable
class Layers(NamedTuple):
    """One tensor per layer of the memories' network; ``second`` is None for a matrix.

    M memories side by side: ``first`` [B, H, M, d_h, d], ``second`` [B, H, M, d, d_h].
    """

    first: Float[Tensor, "*B H M E D"]
    second: Float[Tensor, "*B H M D E"] | None = None

    def map(self, function: Callable[..., Tensor], *others: "Layers") -> "Layers":
        """Apply to corresponding layers; a missing second layer stays None."""
        first = function(self.first, *(x.first for x in others))
        if self.second is None:
            return Layers(first, None)
        return Layers(first, function(self.second, *(x.second for x in others)))


class Slope(NamedTuple):
    """The gradient of one layer's weight, as a sum of g u^T over the rows.

    Rows are the C tokens, and again the C tokens if the gradient also flows through the targets.
    """

    inputs: Float[Tensor, "B H M1 R X"]
    outputs: Float[Tensor, "B H M R Y"]


class Readouts(NamedTuple):
    """The weights and biases that produce the rates, per head or per row of both layers.

    Those for alpha are None without decay.
    """

    eta_weight: Float[Tensor, "H *R D"]
    eta_bias: Float[Tensor, "H *R"]
    alpha_weight: Float[Tensor, "H *R D"] | None
    alpha_bias: Float[Tensor, "H *R"] | None


def longest(config: SelfTitansOptions, gradient: Float[Tensor, "B H M _ _"]) -> Tensor | float:
    """The clip length of each memory's output gradients; one number if all are the same."""
    output, others = config.clips()
    if output == others:
        return output
    # made on the device: a copy from the host cannot be captured in a CUDA graph
    lengths = gradient.new_full((gradient.shape[2], 1, 1), others)
    lengths[-1].fill_(output)
    return lengths


def cut(config: SelfTitansOptions, gradient: Float[Tensor, "B H M C D"]) -> Tensor:
    """Clip the gradients to the length of each memory."""
    length = gradient.norm(dim=-1, keepdim=True)
    most = longest(config, gradient)
    return gradient * (most / length.clamp(min=most))


def rows_of(x: Tensor, layer: int, weights: Layers, dim: int) -> Tensor:
    """The entries of one layer's rows; ``dim`` runs over the rows of all layers, first to last."""
    rows = weights.first.shape[-2]
    return x.narrow(dim, rows, x.shape[dim] - rows) if layer else x.narrow(dim, 0, rows)


def apply(weights: Layers, x: Float[Tensor, "*N C D"]) -> Float[Tensor, "*N C D"]:
    """The residual network M(x) = x + W_1 gelu(W_2 x), or x + W x, with these weights."""
    z = x @ weights.first.mT
    if weights.second is None:
        return x + z
    return x + functional.gelu(z) @ weights.second.mT


def apply_through(
    weights: Layers, x: Float[Tensor, "B H M C D"]
) -> tuple[Float[Tensor, "B H M C D"], Layers]:
    """``apply``, also returning the weights for their next use (ops passes)."""
    z, first = read_rows(weights.first, x)
    if weights.second is None:
        return x + z, Layers(first, None)
    y, second = read_rows(weights.second, functional.gelu(z))
    return x + y, Layers(first, second)


def shift_through(deviation: Layers, base: Layers) -> tuple[Layers, Layers]:
    """deviation + base, also returning the deviation for its next use (ops passes)."""
    first, first_on = shift(deviation.first, base.first)
    if deviation.second is None or base.second is None:
        return Layers(first, None), Layers(first_on, None)
    second, second_on = shift(deviation.second, base.second)
    return Layers(first, second), Layers(first_on, second_on)
