"""The cache of a transformers model, of whatever kind."""

import copy
from typing import Any

from jaxtyping import Int
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from nestling.models.cache import MemoryCache
from nestling.models.roomy import RoomyLayer

# replace what they hold at every token, or write behind it
GROWING = (DynamicLayer, DynamicSlidingWindowLayer, RoomyLayer)


def grows(kept: Any) -> bool:
    """Whether a cache of transformers is one of keys and values alone, which only grow."""
    return type(kept) is DynamicCache and all(type(layer) in GROWING for layer in kept.layers)


class Held:
    """The tokens that were read, [B, T], and the cache the model keeps of them.

    ``kept`` is None for a model that is read whole again at every call. Of the tokens the last
    ``waits`` are not in it yet.
    """

    def __init__(self, ids: Int[Tensor, "B T"], kept: Any = None, waits: int = 0):
        self.ids, self.kept, self.waits = ids, kept, waits

    @property
    def waiting(self) -> Int[Tensor, "B W"]:
        """The tokens that the cache does not have yet."""
        return self.ids[:, self.ids.shape[1] - self.waits :]

    def get_seq_length(self) -> int:
        """Tokens of a row that were read."""
        return self.ids.shape[1]

    def fork(self) -> "Held":
        """The same, to go on from by itself; a cache that only grows is shared, any other copied.

        The keys and values that are shared are written into by neither.
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
        """Whether rows can be repeated, which not every cache of transformers knows how to do."""
        return self.kept is None or grows(self.kept)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Each row ``repeats`` times, in place."""
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
    """Bytes of a memory; of a cache of transformers those of its keys and values."""
    if isinstance(cache, Held):
        return cache.nbytes
    sizes: list[int] = []
    cache.map(lambda tensor: sizes.append(tensor.nbytes) or tensor)
    return sum(sizes)
