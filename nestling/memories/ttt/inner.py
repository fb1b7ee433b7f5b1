"""The inner model of a test-time training layer, as functions of explicit weights."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from nestling.core.named import traceable

EPSILON = 1e-6  # epsilon of the layer norm


@traceable
class Layer(NamedTuple):
    """A linear map x -> W x + b, or a sum of gradients for one."""

    weight: Float[Tensor, "*B H E D"]
    bias: Float[Tensor, "*B H E"]


Inner = tuple[Layer, ...]  # layers from input to output, with GELU between them


def apply(layer: Layer, x: Float[Tensor, "B H R D"]) -> Float[Tensor, "B H R E"]:
    """W x + b for every row."""
    return x @ layer.weight.mT + layer.bias[..., None, :]


def gelu(z: Float[Tensor, "*N"]) -> Float[Tensor, "*N"]:
    """GELU with the tanh approximation, as in the published code."""
    return functional.gelu(z, approximate="tanh")


def normalised(
    z: Float[Tensor, "*B R K"],
) -> tuple[Float[Tensor, "*B R K"], Float[Tensor, "*B R 1"]]:
    """z normalised to zero mean and unit variance, and one over its standard deviation."""
    centred = z - z.mean(-1, keepdim=True)
    inverse = (centred.square().mean(-1, keepdim=True) + EPSILON).rsqrt()
    return centred * inverse, inverse


def gradients_of(
    inner: Inner,
    k: Float[Tensor, "B H R K"],
    target: Float[Tensor, "B H R K"],
    scale: Float[Tensor, "H 1 K"],
    shift: Float[Tensor, "H 1 K"],
) -> tuple[list[Float[Tensor, "B H R _"]], list[Float[Tensor, "B H R _"]]]:
    """Each layer's inputs at k, and the gradients with respect to its outputs.

    The loss is |scale LN(net(k)) + shift - target|^2 / 2, separate for every row. Differentiable.
    """
    inputs, slopes, z = [k], [], apply(inner[0], k)
    for layer in inner[1:]:
        ones = torch.ones_like(z)
        slopes.append(torch.ops.aten.gelu_backward(ones, z, approximate="tanh"))
        inputs.append(gelu(z))
        z = apply(layer, inputs[-1])
    normal, inverse = normalised(z)
    error = scale * (scale * normal + shift - target)
    along = (error * normal).mean(-1, keepdim=True)
    gradients = [inverse * (error - error.mean(-1, keepdim=True) - along * normal)]
    for layer, slope in zip(inner[:0:-1], slopes[::-1], strict=True):
        gradients.insert(0, (gradients[0] @ layer.weight) * slope)
    return inputs, gradients


def added(
    inner: Inner | None,
    inputs: list[Float[Tensor, "B H R _"]],
    gradients: list[Float[Tensor, "B H R _"]],
) -> Inner:
    """``inner`` plus the gradients of weights and biases, summed over the rows."""
    pairs = zip(inputs, gradients, strict=True)
    sums = tuple(Layer(gradient.mT @ x, gradient.sum(-2)) for x, gradient in pairs)
    if inner is None:
        return sums
    return tuple(Layer(*map(torch.add, *pair)) for pair in zip(inner, sums, strict=True))


def subtracted(inner: Inner, total: Inner, scale: Float[Tensor, ""]) -> Inner:
    """inner - scale total."""
    pairs = zip(inner, total, strict=True)
    return tuple(Layer(*(x - scale * g for x, g in zip(*pair, strict=True))) for pair in pairs)


def zeros(inner: Inner) -> Inner:
    """Zeros of the same shapes."""
    return tuple(Layer(*map(torch.zeros_like, layer)) for layer in inner)


def choose_rows(rows: Bool[Tensor, " B"], new: Inner, old: Inner) -> Inner:
    """``new`` in these rows, ``old`` in the others."""
    return tuple(
        Layer(*(torch.where(rows.view(-1, *(1,) * (y.ndim - 1)), x, y) for x, y in pair))
        for pair in (zip(*layers, strict=True) for layers in zip(new, old, strict=True))
    )


def packed(inner: Inner) -> Float[Tensor, "*B H P"]:
    """All parameters of each head in one vector: weight, then bias, layer by layer."""
    return torch.cat([x for w, b in inner for x in (w.flatten(-2), b)], dim=-1)


def unpacked(x: Float[Tensor, "*B H P"], sizes: Sequence[int]) -> Inner:
    """The inverse of ``packed`` for layers of these widths, as views."""
    pairs = list(pairwise(sizes))
    parts = iter(x.split([n for before, after in pairs for n in (after * before, after)], dim=-1))
    return tuple(Layer(next(parts).unflatten(-1, (b, a)), next(parts)) for a, b in pairs)
