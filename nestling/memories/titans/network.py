"""A network of any depth as a tuple of weights: read, its gradients, and one write of all layers.

Letters: M the network, W_l its layers [*, out, in], u_l the input of layer l (u_1 = k), g_l the
gradient of the inner loss for its output; theta step, eta momentum, alpha forgetting.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from nestling.core.network import gelu_and_slope
from nestling.ops.momentum_gated_delta_rule import DeltaState
from nestling.ops.momentum_gated_delta_rule.chunk import Coefficients, close, read
from nestling.ops.momentum_gated_delta_rule.passes import read_rows, read_rows_back, shift

Weights = tuple[Tensor, ...]  # [*B, H, out, in] for each layer, that of the input first


class Gradient(NamedTuple):
    """The gradient of one layer's weight for each token: the outer product g u^T."""

    inputs: Float[Tensor, "B H C I"]
    outputs: Float[Tensor, "B H C O"]


def apply(weights: Weights, x: Float[Tensor, "*N C I"]) -> Float[Tensor, "*N C O"]:
    """M(x) = W_L gelu(... gelu(W_1 x))."""
    for layer, weight in enumerate(weights):
        x = (functional.gelu(x) if layer else x) @ weight.mT
    return x


def add_base(deviation: Weights, running: Weights, base: Weights | None) -> tuple[Weights, Weights]:
    """The full weights of the anchor, and the current ones, each for a single use (ops passes).

    ``base`` is added to both; None if they are the weights already.
    """
    if base is None:
        return deviation, running
    if deviation[0] is not running[0]:
        return tuple(map(torch.add, deviation, base)), running
    pairs = [shift(x, fixed) for x, fixed in zip(running, base, strict=True)]
    return tuple(whole for whole, _ in pairs), tuple(on for _, on in pairs)


def gradients(
    anchor: Weights, k: Float[Tensor, "B H C D"], v: Float[Tensor, "B H C D"], clip: float
) -> list[Gradient]:
    """Gradient of |M(k) - v|^2 / 2 for every layer, at the anchor.

    The output gradient is clipped to a root mean square of ``clip`` before back-propagation.
    """
    x, inputs, slopes, handed = k, [], [], []
    for layer, weight in enumerate(anchor):
        if layer:
            x, slope = gelu_and_slope(x)
            slopes.append(slope)
        inputs.append(x)
        x, weight = read_rows(weight, x)
        handed.append(weight)
    g = x - v
    size = g.square().mean(-1, keepdim=True)
    g = g * (clip * size.clamp(min=clip**2).rsqrt())
    found = [Gradient(inputs[-1], g)]
    for layer in range(len(anchor) - 1, 0, -1):
        g = slopes[layer - 1] * read_rows_back(handed[layer], g)[0]
        found.insert(0, Gradient(inputs[layer - 1], g))
    return found


def write(
    weights: Weights,
    momenta: Weights,
    base: Weights | None,
    slopes: list[Gradient],
    theta: Float[Tensor, "B H C"],
    gates: Coefficients,
    epsilon: float,
    q: Float[Tensor, "B H C D"],
) -> tuple[Float[Tensor, "B H C D"], Weights, Weights]:
    """Write every layer at every token and read the network at q after each token's write.

    For each layer S <- eta S - theta / (epsilon + |u|^2) g u^T and W <- (1 - alpha) W + S; in the
    first layer, whose inputs have unit length, the step is theta. A layer's output at q, passed
    through gelu, is the query of the next.
    """
    states = []
    for layer, (u, g) in enumerate(slopes):
        step = theta / (epsilon + u.square().sum(-1)) if layer else theta
        written = -step[..., None] * g
        q = functional.gelu(q) if layer else q
        # one product per head: matmul would copy the base for every row of the batch
        fixed = None if base is None else torch.einsum("bhci,hoi->bhco", q, base[layer])
        state = DeltaState(weights[layer], momenta[layer])
        q, state = read(q, u, written, None, gates.after, state)
        q = q if fixed is None else q + fixed
        states.append(close(u, written, None, gates, state))
    return q, tuple(s.weight for s in states), tuple(s.momentum for s in states)
