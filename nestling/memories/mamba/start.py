"""Initialisation of both memories, after the code of arXiv 2312.00752 and 2405.21060."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nestling.core.error import UserError
from nestling.memories.parts import ShortConvolution


def check_steps(name: str, steps: tuple[float, ...], floor: float) -> None:
    """Raise UserError unless ``steps`` is a range of positive sizes and ``floor`` is positive."""
    if len(steps) != 2 or not 0 < steps[0] <= steps[1] or floor <= 0:
        raise UserError(
            f"{name}.initial_steps must be two positive step sizes, the smaller first, and "
            f"{name}.smallest_step positive, not {steps} and {floor}"
        )


def init_linear(linear: nn.Linear, generator: torch.Generator | None = None) -> None:
    """Uniform weights within 1 / sqrt(inputs), torch's default for a linear map."""
    bound = 1 / math.sqrt(linear.in_features)
    linear.weight.uniform_(-bound, bound, generator=generator)


def init_convolution(
    convolution: ShortConvolution, generator: torch.Generator | None = None
) -> None:
    """Uniform weights and biases within 1 / sqrt(width), torch's default for a convolution."""
    convolution.init_weights(generator)
    assert convolution.bias is not None
    bound = 1 / math.sqrt(convolution.width)
    convolution.bias.uniform_(-bound, bound, generator=generator)


def init_step_bias(
    bias: Float[Tensor, " D"],
    steps: tuple[float, ...],
    floor: float,
    generator: torch.Generator | None = None,
) -> None:
    """Biases whose softplus is log-uniform over ``steps``."""
    low, high = map(math.log, steps)
    size = torch.empty_like(bias).uniform_(low, high, generator=generator).exp().clamp(min=floor)
    # the inverse of softplus
    bias.copy_(size + torch.log(-torch.expm1(-size)))
