"""Caches of keys and values, one column per token: pad, cut, and concatenate rows."""

from typing import Any

import torch
from torch.nn.functional import pad
from transformers.cache_utils import DynamicCache, DynamicLayer


def has_columns(cache: Any) -> bool:
    """Whether a cache holds just keys and values [B, H, T, D] of all tokens in every layer."""
    return isinstance(cache, DynamicCache) and all(
        type(one) is DynamicLayer for one in cache.layers
    )


def fill_columns(cache: Any, count: int) -> None:
    """Prepend columns of zeros, which the mask must exclude."""
    for layer in cache.layers:
        layer.keys = pad(layer.keys, (0, 0, count, 0))
        layer.values = pad(layer.values, (0, 0, count, 0))


def cut_columns(cache: Any, count: int) -> None:
    """Remove the first columns."""
    for layer in cache.layers:
        layer.keys, layer.values = layer.keys[:, :, count:], layer.values[:, :, count:]


def append_rows(cache: Any, other: Any) -> None:
    """Append the rows of a cache with equally many columns."""
    for mine, others in zip(cache.layers, other.layers, strict=True):
        mine.keys = torch.cat((mine.keys, others.keys))
        mine.values = torch.cat((mine.values, others.values))
