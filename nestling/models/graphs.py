"""Decode one token at a time with a CUDA graph, for models whose states keep their shape."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nestling.core.error import UserError
from nestling.core.memory import map_state
from nestling.models.cache import MemoryCache
from nestling.models.hf import HopeForCausalLM


class Replay:
    """Reads token after token for the rows of ``cache``; the cache itself is not changed.

    On a CUDA device the step is captured once and replayed, so that no kernel launch waits for the
    host. On other devices the step runs as usual. Raises UserError for a model whose states grow
    (full attention), and for one that synchronises with the device while reading.
    """

    def __init__(self, model: HopeForCausalLM, cache: MemoryCache):
        if cache.states is None:
            raise UserError("the cache has read nothing; read a prompt into it first")
        cache.check(model.architecture, cache.batch_size)
        model.check_states(cache.states, cache.batch_size)
        self.model = model
        self.ids: Int[Tensor, "B 1"] = torch.zeros(
            cache.batch_size, 1, dtype=torch.long, device=model.device
        )
        self.states = map_state(torch.clone, cache.states)
        self.logits: Float[Tensor, "B V"]
        self.graph = torch.cuda.CUDAGraph() if model.device.type == "cuda" else None
        if self.graph is not None:
            self._capture(self.graph)

    @torch.no_grad()
    def __call__(self, ids: Int[Tensor, "B 1"]) -> Float[Tensor, "B V"]:
        """The logits after one more token of each row; overwritten by the next call."""
        self.ids.copy_(ids)
        if self.graph is None:
            self._keep(self._step())
        else:
            self.graph.replay()
        return self.logits

    def _step(self) -> list[Any]:
        x = self.model.backbone.embed_tokens(self.ids)
        logits, states = self.model.stream(x, self.ids, self.states)
        self.logits = logits[:, -1]
        return states

    def _keep(self, states: list[Any]) -> None:
        """Copy the new states over the old ones."""
        pairs = _pairs(self.states, states)
        if any(x.shape != y.shape for x, y in pairs):
            raise UserError("the states of this model grow as it reads; use model.generate")
        # new states may share parts of old ones: read all before anything is overwritten
        held = {x.data_ptr() for x, _ in pairs}
        apart = [(x, y.clone() if y.data_ptr() in held else y) for x, y in pairs]
        for target, source in apart:
            target.copy_(source)

    @torch.no_grad()
    def _capture(self, graph: torch.cuda.CUDAGraph) -> None:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(2):  # allocations and tuning happen before the capture
                self._step()
        torch.cuda.current_stream().wait_stream(stream)
        try:
            with torch.cuda.graph(graph):
                self._keep(self._step())
        except RuntimeError as error:
            raise UserError(
                "a memory of this model synchronises with the device while it reads a token, so it "
                f"cannot be captured ({str(error).splitlines()[0]}); use model.generate"
            ) from error


def _pairs(old: Any, new: Any) -> list[tuple[Tensor, Tensor]]:
    """Whether two states have tensors in the same places; None in the old one may be recomputed."""
    if isinstance(old, Tensor):
        return [(old, new)]
    if isinstance(old, tuple | list):
        return [pair for x, y in zip(old, new, strict=True) for pair in _pairs(x, y)]
    return []
