"""Seeded inputs for the tests and benchmarks of the recurrence."""

import torch
from torch import Tensor
from torch.nn import functional


def inputs(
    seed: int,
    *,
    batch: int = 2,
    length: int = 37,
    heads: int = 2,
    key: int = 5,
    value: int = 4,
    floor: float = -0.6,
    dtype: torch.dtype = torch.float64,
) -> dict[str, Tensor]:
    """Draw q, k, w, log_alpha, erase_key and eraser in the ranges of a trained model.

    Erase keys have unit length, the eraser is the erase key times a factor in (0, 1) per channel,
    and log_alpha is between ``floor`` and 0.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(size: int) -> Tensor:
        return torch.randn(batch, length, heads, size, generator=generator, dtype=dtype)

    p = functional.normalize(draw(key), dim=-1)
    return {
        "q": functional.normalize(draw(key), dim=-1),
        "k": functional.normalize(draw(key), dim=-1),
        "w": draw(value),
        "log_alpha": floor * torch.sigmoid(draw(key)),
        "erase_key": p,
        "eraser": torch.sigmoid(draw(key)) * p,
    }
