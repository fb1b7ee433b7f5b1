"""One interface to read with any model: ids and a context in, logits and a new context out."""

import contextlib
from collections.abc import Generator, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.hooks import RemovableHandle
from transformers.cache_utils import DynamicCache

from nestling.core.memory import map_state
from nestling.models.cache import MemoryCache, fill_state, named_tensors
from nestling.models.hf import HopeForCausalLM


class _Called(nn.Module):
    """Lets ``functional_call`` call any method of a model, not just ``forward``."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, function: Any) -> Any:
        return function(self.model)


class FunctionalModel:
    """Calls a model with the given weights; the model itself is never changed.

    A context is a value that holds what the model remembers of the text so far: (keys, values) for
    each layer or, for a model of this library, the states of its memories and the number of tokens
    read. None is the empty context.
    """

    def __init__(self, model: Any):
        self.model = model
        self._called = _Called(model)

    def call(self, weights: Mapping[str, Tensor], function: Any) -> Any:
        """Call ``function(model)`` with these weights instead of the model's own."""
        inside = {f"model.{name}": value for name, value in weights.items()}
        return functional_call(self._called, inside, (function,))

    def read(
        self, weights: Mapping[str, Tensor], ids: Int[Tensor, "B T"], context: Any = None
    ) -> tuple[Float[Tensor, "B T V"], Any]:
        """The logits of the next token at every position, and the context after it."""
        cache = self.cache(context)
        out = self.call(
            weights, lambda model: model(input_ids=ids, past_key_values=cache, use_cache=True)
        )
        return out.logits, _context(out.past_key_values)

    @torch.no_grad()
    def called_maps(self) -> frozenset[str]:
        """Names of linear weights that are used once per forward pass, on inputs [B, T, N].

        Hooking the inputs and outputs of such a module covers every use of its weight.
        """
        if isinstance(self.model, HopeForCausalLM):
            return frozenset()
        shapes: dict[str, list[Any]] = {}

        def watch(name: str, module: nn.Linear) -> RemovableHandle:
            def note(_: nn.Module, args: tuple[Tensor, ...]) -> None:
                shapes.setdefault(f"{name}.weight", []).append(args[0].shape[:-1])

            return module.register_forward_pre_hook(note)

        maps = [pair for pair in self.model.named_modules() if isinstance(pair[1], nn.Linear)]
        hooks = [watch(*pair) for pair in maps]
        try:
            self.model(input_ids=torch.zeros(2, 3, dtype=torch.long, device=self.model.device))
        finally:
            for hook in hooks:
                hook.remove()
        return frozenset(name for name, found in shapes.items() if found == [(2, 3)])

    def inputs(self, names: Sequence[str]) -> tuple[int, ...]:
        """For each parameter, the width of its inputs; 0 if it is not a linear map's weight."""
        return tuple(0 if (m := self._linear(name)) is None else m.in_features for name in names)

    def _linear(self, name: str) -> nn.Linear | None:
        module, _, last = name.rpartition(".")
        found = self.model.get_submodule(module)
        return found if isinstance(found, nn.Linear) and last == "weight" else None

    @contextlib.contextmanager
    def grams(self, names: Sequence[str]) -> Generator[dict[str, Tensor]]:
        """Collect sums of x x^T over the inputs of linear maps during reads with gradients."""
        sums: dict[str, Tensor] = {}

        def watch(name: str, module: nn.Linear) -> RemovableHandle:
            def add(_: nn.Module, args: tuple[Tensor, ...]) -> None:
                if torch.is_grad_enabled():
                    x = args[0].detach().flatten(0, -2).float()
                    sums[name] = sums[name] + x.T @ x if name in sums else x.T @ x

            return module.register_forward_pre_hook(add)

        pairs = [(name, self._linear(name)) for name in names]
        hooks = [watch(name, module) for name, module in pairs if module is not None]
        try:
            yield sums
        finally:
            for hook in hooks:
                hook.remove()

    def generate(
        self, weights: Mapping[str, Tensor], ids: Int[Tensor, "B T"], **generation: Any
    ) -> Int[Tensor, "B L"]:
        """Generate token ids after ``ids``, with the options of transformers' ``generate``."""
        mask = torch.ones_like(ids)
        out = self.call(
            weights, lambda model: model.generate(ids, attention_mask=mask, **generation)
        )
        return out[:, ids.shape[1] :]

    @property
    def limit(self) -> int | None:
        """The longest context of the model in tokens; None: unlimited."""
        if isinstance(self.model, HopeForCausalLM):
            return None
        return self.model.config.max_position_embeddings

    @property
    def grows(self) -> bool:
        """Whether the context grows with every token, as with full attention."""
        if not isinstance(self.model, HopeForCausalLM):
            return True
        configs = self.model.config.memory_configs()
        return "attention" in configs and configs["attention"].window is None

    def tensors(self, context: Any) -> dict[str, Tensor]:
        """A context as named tensors, to save it."""
        return {} if context is None else dict(named_tensors(context))

    def restore(self, tensors: Mapping[str, Tensor]) -> Any:
        """The inverse of ``tensors``."""
        if not tensors:
            return None
        if isinstance(self.model, HopeForCausalLM):
            states = fill_state(self.model.init_states(1), "0", dict(tensors))
            return (states, tensors["1"])
        layers = len(tensors) // 2
        return tuple((tensors[f"{i}.0"], tensors[f"{i}.1"]) for i in range(layers))

    def cache(self, context: Any) -> Any:
        """A cache for the model that holds a context."""
        if not isinstance(self.model, HopeForCausalLM):
            return DynamicCache(context)
        cache = self.model.new_cache()
        if context is not None:
            states, tokens = context
            cache.advance(states, int(tokens), tokens)
        return cache


def _context(cache: Any) -> Any:
    if isinstance(cache, MemoryCache):
        return (map_state(Tensor.detach, cache.states), cache.tokens)
    return tuple(
        (layer.keys.detach().contiguous(), layer.values.detach().contiguous())
        for layer in cache.layers
    )
