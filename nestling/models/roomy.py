"""Keys and values with room for more: a token is written behind them, not copied with them."""

from typing import Any

from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer

ROOM = 256  # tokens beyond those that are there, whenever a new place is needed


class RoomyLayer(DynamicLayer):
    """The keys and values of a layer, at the beginning of a longer place.

    transformers' own layer copies all of them for every token: on a CPU a quarter of the time of a
    token of SmolLM2-135M after 4,000 others. ``apart`` shares what is there: its holder writes
    behind it in a place of its own.
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
        """Take up the keys and values of more tokens, and give all of them."""
        keys = self._longer(0, self.keys, key_states)
        values = self._longer(1, self.values, value_states)
        self.keys, self.values = keys, values
        return keys, values

    def _longer(self, which: int, held: Tensor | None, new: Tensor) -> Tensor:
        if held is None:
            held = new[..., :0, :]
        length, wanted = held.shape[-2], held.shape[-2] + new.shape[-2]
        place = self._places[which]
        # what was reordered or repeated since lies elsewhere
        if place is None or place.data_ptr() != held.data_ptr() or place.shape[-2] < wanted:
            place = held.new_empty(*held.shape[:-2], wanted + ROOM, held.shape[-1])
            place[..., :length, :] = held
            self._places[which] = place
        place[..., length:wanted, :] = new
        return place[..., :wanted, :]

    def apart(self) -> "RoomyLayer":
        """The same keys and values, to go on from by itself."""
        return RoomyLayer(self)

    def crop(self, tokens_to_remove: int) -> None:
        """Take tokens away at the end; the place may be shared, so what follows gets a new one."""
        super().crop(tokens_to_remove)
        self._places = [None, None]


def roomy(cache: Any) -> Any:
    """A cache of transformers with roomy layers if all of its layers only grow, else as it is."""
    if type(cache) is DynamicCache and all(type(x) is DynamicLayer for x in cache.layers):
        cache.layers = [RoomyLayer(layer) for layer in cache.layers]
    return cache
