"""A key-value cache with spare room: new tokens are appended without copying the old ones."""

from typing import Any

from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer

ROOM = 256  # spare tokens in a new buffer


class RoomyLayer(DynamicLayer):
    """The keys and values of a layer, at the start of a larger buffer.

    The layer of transformers copies all of them for every token: on a CPU, a quarter of the time
    per token for SmolLM2-135M after 4,000 tokens. ``apart`` shares the contents; its owner appends
    in a buffer of its own.
    """

    def __init__(self, layer: DynamicLayer):
        super().__init__()
        self.dtype, self.device = layer.dtype, layer.device
        self.keys, self.values = layer.keys, layer.values
        self.is_initialized = layer.is_initialized
        self._places: list[Tensor | None] = [None, None]

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Append the keys and values of more tokens; returns all of them."""
        keys = self._longer(0, self.keys, key_states)
        values = self._longer(1, self.values, value_states)
        self.keys, self.values = keys, values
        return keys, values

    def _longer(self, which: int, held: Tensor | None, new: Tensor) -> Tensor:
        if held is None:
            held = new[..., :0, :]
        length, wanted = held.shape[-2], held.shape[-2] + new.shape[-2]
        place = self._places[which]
        # after reordering or repeating, the tensor is no longer part of the buffer
        if place is None or place.data_ptr() != held.data_ptr() or place.shape[-2] < wanted:
            place = held.new_empty(*held.shape[:-2], wanted + ROOM, held.shape[-1])
            place[..., :length, :] = held
            self._places[which] = place
        place[..., length:wanted, :] = new
        return place[..., :wanted, :]

    def apart(self) -> "RoomyLayer":
        """The same keys and values, to continue from independently."""
        return RoomyLayer(self)

    def crop(self, tokens_to_remove: int) -> None:
        """Remove tokens at the end; since the buffer may be shared, later ones get a new one."""
        super().crop(tokens_to_remove)
        self._places = [None, None]


def roomy(cache: Any) -> Any:
    """The cache with roomy layers if all of its layers only grow; otherwise unchanged."""
    if type(cache) is DynamicCache and all(type(x) is DynamicLayer for x in cache.layers):
        cache.layers = [RoomyLayer(layer) for layer in cache.layers]
    return cache
