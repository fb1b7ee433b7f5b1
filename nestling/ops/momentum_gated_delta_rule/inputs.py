"""Seeded inputs of the recurrence, shared by its tests and benchmarks."""

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
    momentum: bool = True,
    erase_key: bool = False,
    dtype: torch.dtype = torch.float64,
) -> dict[str, Tensor]:
    """Draw q, k, w, alpha, beta (and mu, erase_key) as a trained model would make them.

    Keys have unit length, alpha and mu lie in (0, 1), beta in (0, 1).
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(batch, length, heads, *shape, generator=generator, dtype=dtype)

    tokens = {
        "q": functional.normalize(draw(key), dim=-1),
        "k": functional.normalize(draw(key), dim=-1),
        "w": draw(value),
        "alpha": torch.sigmoid(draw() + 2),
        "beta": torch.sigmoid(draw()),
    }
    if momentum:
        tokens["mu"] = torch.sigmoid(draw())
    if erase_key:
        tokens["erase_key"] = functional.normalize(draw(key), dim=-1)
    return tokens
