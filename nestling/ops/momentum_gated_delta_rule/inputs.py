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
    momentum: bool = True,
    erase_key: bool = False,
    dtype: torch.dtype = torch.float64,
) -> dict[str, Tensor]:
    """Draw q, k, w, alpha, beta (and mu, erase_key) in the ranges of a trained model.

    Keys have unit length; alpha, mu and beta are in (0, 1).
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
