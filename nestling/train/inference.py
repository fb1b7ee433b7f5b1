"""Generates text with a trained model, from a prompt or after what a memory has read."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nestling.core.error import UserError
from nestling.data import frame
from nestling.models.cache import MemoryCache
from nestling.models.decode import read
from nestling.models.hf import HopeForCausalLM


@torch.no_grad()
def continue_text(
    model: HopeForCausalLM,
    tokenizer: Any,
    prompt: str,
    *,
    tokens: int,
    temperature: float | int = 0.8,
    top_k: int = 50,
    cache: MemoryCache | None = None,
    seed: int = 0,
) -> tuple[str, MemoryCache]:
    """Generate text after ``prompt``. Returns it with the memory after it.

    Generation stops at the end of the document or after ``tokens`` tokens. With ``cache`` the
    prompt continues the text that the cache has read; otherwise it starts a document.
    ``temperature`` 0 takes the most likely token, ``top_k`` 0 samples from all tokens, and ``seed``
    seeds the sampling. Raises UserError for an empty prompt or one that is not UTF-8.
    """
    try:
        prompt.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError("the prompt is not UTF-8 text; pass it in UTF-8") from error
    ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    if cache is None:
        ids = [*frame(tokenizer).before, *ids]
    if not ids:
        raise UserError("the prompt is empty; give at least one character")
    generator = torch.Generator(model.device).manual_seed(seed)
    cache = model.new_cache() if cache is None else cache.fork()
    written: list[int] = []
    given = torch.tensor([ids], device=model.device)
    while True:
        logits, cache = read(model, given, cache)
        if len(written) == tokens or (written and written[-1] == tokenizer.eos_token_id):
            break
        # the padding rows of a vocabulary are not tokens
        given = draw(logits[:, : len(tokenizer)].float(), temperature, top_k, generator)
        written.append(int(given))
    return tokenizer.decode(written, skip_special_tokens=True), cache


def draw(
    logits: Float[Tensor, "B V"],
    temperature: float | int,
    top_k: int,
    generator: torch.Generator,
) -> Int[Tensor, "B 1"]:
    """One token per row: the most likely, or sampled from the ``top_k`` most likely."""
    if temperature == 0:
        return logits.argmax(-1, keepdim=True)
    count = min(top_k or logits.shape[-1], logits.shape[-1])
    best, index = logits.topk(count, dim=-1)
    chosen = torch.multinomial((best / temperature).softmax(-1), 1, generator=generator)
    return index.gather(-1, chosen)
