"""Read long text into a memory, and generate from it."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nestling.core.error import UserError
from nestling.core.memory import Flow
from nestling.models.cache import MemoryCache
from nestling.models.hf import HopeForCausalLM


@torch.no_grad()
def read(
    model: HopeForCausalLM,
    input_ids: Int[Tensor, "B T"],
    cache: MemoryCache | None = None,
    *,
    segment: int = 512,  # tokens per call
) -> tuple[Float[Tensor, "B V"], MemoryCache]:
    """The logits of the next token after a text of any length, and its memory.

    The text is read in segments, so that memory use does not grow with its length; ``cache`` is
    updated in place, as in a call of the model. An empty text raises ValueError.
    """
    if input_ids.shape[1] == 0:
        raise ValueError(f"input_ids is {list(input_ids.shape)}: there are no tokens to read")
    logits = None
    cache = model.new_cache() if cache is None else cache
    for piece in input_ids.split(segment, dim=1):
        out = model(piece, past_key_values=cache, use_cache=True, logits_to_keep=1)
        logits = out.logits[:, -1]
    assert logits is not None
    return logits, cache


def write_on(
    model: HopeForCausalLM,
    input_ids: Int[Tensor, "B T"],
    cache: MemoryCache,
    **generation: Any,  # arguments of transformers' generate, which checks them
) -> Any:
    """Token ids [N, L] generated after what ``cache`` has read and the new tokens ``input_ids``.

    ``generate`` itself expects its input to be the whole text, including what the cache has read.
    The cache is updated in place; pass ``cache.fork()`` to keep it.
    """
    seen = input_ids.new_ones(input_ids.shape[0], cache.columns + input_ids.shape[1])
    return model.generate(  # ty: ignore[invalid-argument-type]
        input_ids,
        attention_mask=seen,
        past_key_values=cache,
        use_cache=True,
        **generation,
    )


def compiled_step(
    model: HopeForCausalLM, *, backend: str = "inductor"
) -> Callable[[Int[Tensor, "B 1"], MemoryCache], Float[Tensor, "B V"]]:
    """A compiled decoding step: one token per row in, next-token logits out; updates the cache.

    For models whose states do not grow, torch.compile sees one graph, whatever was read before.
    Compilation takes about a minute, in the first two calls. For decoding only: no gradients, no
    padding, no new documents, and the cache must not be empty. ``backend`` is that of
    torch.compile; "eager" builds the graph without compiling it.
    """

    def body(ids: Tensor, states: list[Any]) -> tuple[Tensor, list[Any]]:
        logits, states = model.stream(model.backbone.embed_tokens(ids), ids, states, Flow())
        return logits[:, -1], states

    compiled = torch.compile(body, fullgraph=True, backend=backend)

    @torch.no_grad()
    def step(ids: Tensor, cache: MemoryCache) -> Tensor:
        if cache.states is None:
            raise UserError(
                "the compiled step continues from a memory; let the model read a prompt first"
            )
        cache.check(model.architecture, len(ids))
        logits, states = compiled(ids, cache.states)
        cache.advance(states, 1, torch.ones(len(ids), dtype=torch.long, device=ids.device))
        return logits

    return step
