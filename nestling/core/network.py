"""Small networks as functions of explicit weights, for deep memories."""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional


class _GeluAndSlope(torch.autograd.Function):
    """GELU and its derivative, both with closed-form gradients."""

    @staticmethod
    def forward(ctx, z: Tensor) -> tuple[Tensor, Tensor]:
        slope = torch.ops.aten.gelu_backward(torch.ones_like(z), z)
        ctx.save_for_backward(z, slope)
        return functional.gelu(z), slope

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Tensor:
        grad, grad_slope = grads
        z, slope = ctx.saved_tensors
        square = z * z
        curvature = torch.exp(-0.5 * square) * ((2 - square) / math.sqrt(2 * math.pi))
        return grad * slope + grad_slope * curvature


def gelu_and_slope(z: Float[Tensor, "*N"]) -> tuple[Float[Tensor, "*N"], Float[Tensor, "*N"]]:
    """GELU(z) = z Phi(z) and its derivative Phi(z) + z phi(z), each differentiable once more."""
    return _GeluAndSlope.apply(z)


def mlp(
    weights: tuple[Float[Tensor, "h d"], Float[Tensor, "o h"]], x: Float[Tensor, "*N d"]
) -> Float[Tensor, "*N o"]:
    """W_2 gelu(W_1 x): a two-layer network without biases."""
    first, second = weights
    return functional.linear(functional.gelu(functional.linear(x, first)), second)


def mlp_gradient(
    weights: tuple[Float[Tensor, "h d"], Float[Tensor, "o h"]],
    x: Float[Tensor, "n d"],
    g: Float[Tensor, "n o"],
) -> tuple[Float[Tensor, "h d"], Float[Tensor, "o h"]]:
    """The gradients of both weights, summed over rows, given the gradient g of mlp(x)."""
    first, second = weights
    hidden, slope = gelu_and_slope(functional.linear(x, first))
    return ((g @ second) * slope).mT @ x, g.mT @ hidden
