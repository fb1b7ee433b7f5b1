"""Seeded inputs for the tests and benchmarks of the selective scan."""

import torch
from torch import Tensor
from torch.nn import functional


def inputs(
    seed: int,
    *,
    batch: int = 2,
    length: int = 37,
    channels: int = 5,
    states: int = 4,
    dtype: torch.dtype = torch.float64,
) -> dict[str, Tensor]:
    """Draw q, k, w and delta in the ranges of a trained model; step sizes are about 0.7."""
    generator = torch.Generator().manual_seed(seed)

    def draw(width: int) -> Tensor:
        return torch.randn(batch, length, width, generator=generator, dtype=dtype)

    return {
        "q": draw(states),
        "k": draw(states),
        "w": draw(channels),
        "delta": functional.softplus(draw(channels)),
    }


def rates(*, channels: int = 5, states: int = 4, dtype: torch.dtype = torch.float64) -> Tensor:
    """The published initial rates -1, -2, ... -N for every channel, [N, D]."""
    return -torch.arange(1, states + 1, dtype=dtype)[:, None].expand(states, channels).clone()
