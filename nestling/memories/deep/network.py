"""A residual network as a tuple of weights: its gradients, windows, and one write of all layers.

Letters: M(x) = x + W_L gelu(... gelu(W_1 phi(x))), W_l its layers [*, out, in], phi the features
of x, u_l the input of layer l (u_1 = phi(k)), g_l the gradient of the inner loss for its output.
"""

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from nestling.core.network import gelu_and_slope
from nestling.ops.momentum_gated_delta_rule import DeltaState
from nestling.ops.momentum_gated_delta_rule.chunk import Coefficients, close, read
from nestling.ops.momentum_gated_delta_rule.passes import read_rows, read_rows_back
from nestling.rules.objective import OBJECTIVES

GELU_POWER = 0.425  # E gelu(z)^2 for a standard normal z
Weights = tuple[Tensor, ...]  # [*B, H, out, in] for each layer, that of the input first


class Write(NamedTuple):
    """The writes to one layer: the outer product w u^T of each token is added to the weight."""

    inputs: Float[Tensor, "B H N I"]
    outputs: Float[Tensor, "B H N O"]


@torch.no_grad()
def init_layers(
    layers: Iterable[Tensor], length: float, generator: torch.Generator | None = None
) -> None:
    """Draw layers such that for unit x hidden values are of order one and |M(x) - x| is ``length``.

    The last layer is not zero, because the layers before it would get no gradient.
    """
    layers = list(layers)
    for layer, weight in enumerate(layers):
        outer, inner = weight.shape[-2:]
        power = GELU_POWER * inner if layer else 1.0
        size = length / math.sqrt(outer) if layer == len(layers) - 1 else 1.0
        weight.normal_(0, size / math.sqrt(power), generator=generator)


def gradients(
    anchor: Weights,
    features: Float[Tensor, "B H N I"],
    k: Float[Tensor, "B H N D"],
    v: Float[Tensor, "B H N D"],
    objective: str,
    clip: float = math.inf,
) -> list[Write]:
    """Inputs and output gradients of every layer, at the anchor.

    ``objective`` is "l2", |M(k) - v|^2 / 2, with the error clipped to a root mean square of
    ``clip`` before back-propagation, or "dot", -<M(k), v>.
    """
    x, inputs, slopes, handed = features, [], [], []
    for layer, weight in enumerate(anchor):
        if layer:
            x, slope = gelu_and_slope(x)
            slopes.append(slope)
        inputs.append(x)
        x, weight = read_rows(weight, x)
        handed.append(weight)
    g = OBJECTIVES[objective].gradient(k + x, v)
    if objective == "l2":
        size = g.square().mean(-1, keepdim=True)
        g = g * (clip * size.clamp(min=clip**2).rsqrt())
    found = [Write(inputs[-1], g)]
    for layer in range(len(anchor) - 1, 0, -1):
        g = slopes[layer - 1] * read_rows_back(handed[layer], g)[0]
        found.insert(0, Write(inputs[layer - 1], g))
    return found


def descend(slopes: list[Write], strength: Float[Tensor, "B H N"], epsilon: float) -> list[Write]:
    """The writes - strength g u^T, after the first layer divided by epsilon + |u|^2.

    The inputs of the first layer are of unit length.
    """
    writes = []
    for layer, (u, g) in enumerate(slopes):
        step = strength / (epsilon + u.square().sum(-1)) if layer else strength
        writes.append(Write(u, -step[..., None] * g))
    return writes


def windows(
    length: int, window: int, mask: Bool[Tensor, "B H C"] | None, like: Tensor
) -> Float[Tensor, "*B C N"]:
    """Which of the last N = window - 1 + C tokens (columns) each of the present C (rows) sees.

    Each sees itself and the ``window - 1`` tokens before it; a masked one sees none.

    >>> windows(2, 3, None, torch.zeros(())).tolist()
    [[1.0, 1.0, 1.0, 0.0], [0.0, 1.0, 1.0, 1.0]]
    """
    ones = like.new_ones(length, length + window - 1)
    seen = ones.triu().tril(window - 1)
    return seen if mask is None else seen * mask[..., None]


def over_windows(gates: Coefficients, seen: Float[Tensor, "*B C N"]) -> Coefficients:
    """The coefficients of the last N tokens, each summed over the windows that contain it."""
    after, pushed = gates.after, gates.momentum_writes
    pushed = None if pushed is None else (pushed[..., None, :] @ seen)[..., 0, :]
    return gates._replace(after=after._replace(writes=after.writes @ seen), momentum_writes=pushed)


def write(
    weights: Weights,
    momenta: Weights,
    base: Weights | None,
    writes: list[Write],
    gates: Coefficients,
    x: Float[Tensor, "B H C I"],
) -> tuple[Float[Tensor, "B H C O"], Weights, Weights]:
    """Write every layer at every token, and read the network at x after each token's write.

    ``base`` are the weights that the deviations are added to; None if these are the weights.
    ``momenta`` is empty if there is no momentum.
    """
    states, still = [], not momenta
    for layer, (u, w) in enumerate(writes):
        x = functional.gelu(x) if layer else x
        fixed = None if base is None else read_base(base[layer], x)
        weight = weights[layer]
        # passing it through the kernel takes no memory
        momentum = weight.new_zeros(()).expand_as(weight) if still else momenta[layer]
        state = DeltaState(weight, momentum)
        x, state = read(x, u, w, None, gates.after, state)
        x = x if fixed is None else x + fixed
        states.append(close(u, w, None, gates, state))
    return x, tuple(s.weight for s in states), tuple(s.momentum for s in states if not still)


def read_base(
    weight: Float[Tensor, "H O I"], x: Float[Tensor, "B H C I"]
) -> Float[Tensor, "B H C O"]:
    """One product per head: matmul would copy the weight for every row of the batch."""
    return torch.einsum("bhci,hoi->bhco", x, weight)
