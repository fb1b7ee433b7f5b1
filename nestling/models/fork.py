"""The memory of any model, of ours or of transformers, going on by itself; and its size."""

import copy
from typing import Any

from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from nestling.models.cache import MemoryCache
from nestling.models.roomy import RoomyLayer

# replace what they hold at every token, or write behind it
GROWING = (DynamicLayer, DynamicSlidingWindowLayer, RoomyLayer)


def fork(cache: Any) -> Any:
    """A memory that goes on by itself, the given one left as it is.

    Keys and values of transformers' growing caches are shared, as the states of ours are: neither
    is written into. Any other cache is copied.
    """
    if isinstance(cache, MemoryCache):
        return cache.fork()
    if type(cache) is not DynamicCache or not all(type(x) in GROWING for x in cache.layers):
        return copy.deepcopy(cache)
    other = copy.copy(cache)
    other.layers = [
        layer.apart() if isinstance(layer, RoomyLayer) else copy.copy(layer)
        for layer in cache.layers
    ]
    return other


def size_of(cache: Any) -> int:
    """Bytes of a memory; 0 for a kind that is not known."""
    if isinstance(cache, MemoryCache):
        sizes: list[int] = []
        cache.map(lambda tensor: sizes.append(tensor.nbytes) or tensor)
        return sum(sizes)
    layers = getattr(cache, "layers", [])
    held = [getattr(layer, name, None) for layer in layers for name in ("keys", "values")]
    return sum(tensor.nbytes for tensor in held if tensor is not None)
