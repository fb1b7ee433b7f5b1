"""The cache of a transformers model, whatever its kind."""

import copy
from typing import Any

from jaxtyping import Int
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from nestling.models.cache import MemoryCache
from nestling.models.roomy import RoomyLayer

# layers that replace their contents at every token, or append to them
GROWING = (DynamicLayer, DynamicSlidingWindowLayer, RoomyLayer)


def grows(kept: Any) -> bool:
    """Whether a transformers cache has only keys and values, which only grow."""
    return type(kept) is DynamicCache and all(type(layer) in GROWING for layer in kept.layers)


class Held:
    """The tokens read so far, [B, T], and the model's cache of them.

    ``kept`` is None for a model that reads the whole text again at every call. The last ``waits``
    tokens are not in the cache yet.
    """

    def __init__(self, ids: Int[Tensor, "B T"], kept: Any = None, waits: int = 0):
        self.ids, self.kept, self.waits = ids, kept, waits

    @property
    def waiting(self) -> Int[Tensor, "B W"]:
        """The tokens that are not in the cache yet."""
        return self.ids[:, self.ids.shape[1] - self.waits :]

    def get_seq_length(self) -> int:
        """The number of tokens read per row."""
        return self.ids.shape[1]

    def fork(self) -> "Held":
        """An independent copy; a cache that only grows is shared, any other is copied.

        Neither of the two writes into shared keys and values.
        """
        if not grows(self.kept):
            return Held(self.ids, copy.deepcopy(self.kept), self.waits)
        other = copy.copy(self.kept)
        other.layers = [
            layer.apart() if isinstance(layer, RoomyLayer) else copy.copy(layer)
            for layer in self.kept.layers
        ]
        return Held(self.ids, other, self.waits)

    @property
    def repeats(self) -> bool:
        """Whether rows can be repeated, which not every transformers cache supports."""
        return self.kept is None or grows(self.kept)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat each row ``repeats`` times, in place."""
        self.ids = self.ids.repeat_interleave(repeats, 0)
        if self.kept is not None:
            self.kept.batch_repeat_interleave(repeats)

    @property
    def nbytes(self) -> int:
        """Bytes of the tokens, and of the keys and values."""
        layers = getattr(self.kept, "layers", [])
        parts = [getattr(layer, name, None) for layer in layers for name in ("keys", "values")]
        return self.ids.nbytes + sum(part.nbytes for part in parts if part is not None)


def size_of(cache: MemoryCache | Held) -> int:
    """The size of a memory in bytes; for a transformers cache, of its keys and values."""
    if isinstance(cache, Held):
        return cache.nbytes
    sizes: list[int] = []
    cache.map(lambda tensor: sizes.append(tensor.nbytes) or tensor)
    return sum(sizes)
