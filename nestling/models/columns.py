"""Caches of keys and values, a column a token: filled up, cut, and put together row by row."""

from typing import Any

import torch
from torch.nn.functional import pad
from transformers.cache_utils import DynamicCache, DynamicLayer


def has_columns(cache: Any) -> bool:
    """Whether a cache holds keys and values [B, H, T, D] of all tokens in every layer, no more."""
    return isinstance(cache, DynamicCache) and all(
        type(one) is DynamicLayer for one in cache.layers
    )


def fill_columns(cache: Any, count: int) -> None:
    """Put so many columns of zeros before all others; a mask has to leave them out."""
    for layer in cache.layers:
        layer.keys = pad(layer.keys, (0, 0, count, 0))
        layer.values = pad(layer.values, (0, 0, count, 0))


def cut_columns(cache: Any, count: int) -> None:
    """Leave the first columns out."""
    for layer in cache.layers:
        layer.keys, layer.values = layer.keys[:, :, count:], layer.values[:, :, count:]


def append_rows(cache: Any, other: Any) -> None:
    """Put the rows of a cache of as many columns behind those of the first."""
    for mine, others in zip(cache.layers, other.layers, strict=True):
        mine.keys = torch.cat((mine.keys, others.keys))
        mine.values = torch.cat((mine.values, others.values))
