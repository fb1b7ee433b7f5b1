"""The input and the memory of a call, from validated arguments."""

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers.cache_utils import Cache

from nestling.core.error import UserError
from nestling.core.memory import Flow
from nestling.models.cache import MemoryCache
from nestling.models.documents import Packing, starts

if TYPE_CHECKING:
    from nestling.models.base import HopePreTrainedModel
    from nestling.models.model import HopeModel


class Entry(NamedTuple):
    """The embedded tokens of a call, document starts, mask, and memory."""

    x: Float[Tensor, "B T D"]
    flow: Flow
    cache: MemoryCache

    def advance(self, states: list[Any]) -> MemoryCache:
        """The cache, updated with the states after the call."""
        rows, length = self.x.shape[:2]
        whole = torch.full((rows,), length, device=self.x.device)
        mask = self.flow.mask
        self.cache.advance(states, length, whole if mask is None else mask.sum(1))
        return self.cache


class Asked(NamedTuple):
    """What a call returns besides its result."""

    cache: bool  # what is remembered after it
    named: bool  # an object with names, not a tuple
    passed: list[Tensor] | None  # collects the stream between the blocks; None: not requested

    @classmethod
    def of(
        cls,
        model: "HopePreTrainedModel",
        *,
        past_key_values: Cache | None,
        use_cache: bool | None,
        output_attentions: bool | None,
        output_hidden_states: bool | None,
        return_dict: bool | None,
    ) -> "Asked":
        """Build from the keywords of a call, with defaults from the configuration."""
        config = model.config
        if config.output_attentions if output_attentions is None else output_attentions:
            raise UserError(
                "the memories have no attention weights to return; leave out output_attentions"
            )
        if use_cache is None:
            use_cache = past_key_values is not None or (config.use_cache and not model.training)
        hidden = (
            config.output_hidden_states if output_hidden_states is None else output_hidden_states
        )
        named = config.return_dict if return_dict is None else return_dict
        return cls(cache=use_cache, named=bool(named), passed=[] if hidden else None)


def enter(
    model: "HopeModel",
    input_ids: Int[Tensor, "B T"] | None,
    inputs_embeds: Float[Tensor, "B T D"] | None,
    attention_mask: Tensor | None,
    past_key_values: Cache | None,
    packing: Packing,
) -> Entry:
    """Validate the arguments of a call; a mistake raises UserError."""
    x = _embedded(model, input_ids, inputs_embeds)
    cache = _cache(model, past_key_values, x)
    mask = _mask(x, attention_mask)
    reset = None
    given = next((value for value in packing if value is not None), None)
    if given is not None:
        # checked on their own device: tensors on the host need no synchronisation
        place = given.device if mask is None else mask.device
        valid = torch.ones(x.shape[:2], dtype=torch.bool, device=place) if mask is None else mask
        reset = starts(packing, valid)
    alone = model.relay is None or model.relay.first
    if reset is not None and cache.states is None and alone:
        # nothing has been read yet that a reset at the first token could clear
        reset = reset & (torch.arange(x.shape[1], device=reset.device) > 0)
    if reset is not None:
        reset = reset.to(x.device, non_blocking=True) if bool(reset.any()) else None
    mask = None if mask is None else mask.to(x.device, non_blocking=True)
    return Entry(x, Flow(reset=reset, mask=mask), cache)


def _embedded(
    model: "HopeModel",
    input_ids: Int[Tensor, "B T"] | None,
    inputs_embeds: Float[Tensor, "B T D"] | None,
) -> Float[Tensor, "B T D"]:
    if inputs_embeds is not None and input_ids is None:
        return inputs_embeds
    if input_ids is None or inputs_embeds is not None:
        raise UserError("give either input_ids or inputs_embeds")
    vocabulary = model.embed_tokens.num_embeddings
    # on an accelerator the check would wait for the device at every call
    if input_ids.device.type == "cpu" and input_ids.numel():
        low, high = (int(end) for end in torch.aminmax(input_ids))
        if low < 0 or high >= vocabulary:
            raise UserError(
                f"token {low if low < 0 else high} is not in the model's vocabulary of "
                f"{vocabulary}; use the tokenizer the model was trained with"
            )
    return model.embed_tokens(input_ids)


def _mask(x: Float[Tensor, "B T D"], attention_mask: Tensor | None) -> Tensor | None:
    if attention_mask is None:
        return None
    length = x.shape[1]
    if (
        attention_mask.dim() != 2
        or len(attention_mask) != len(x)
        or attention_mask.shape[1] < length
    ):
        raise UserError(
            f"attention_mask is {list(attention_mask.shape)}; give [{len(x)}, {length}], or longer "
            "on the left"
        )
    attention_mask = attention_mask[:, attention_mask.shape[1] - length :].bool()
    return None if bool(attention_mask.all()) else attention_mask


def _cache(model: "HopeModel", cache: Cache | None, x: Float[Tensor, "B T D"]) -> MemoryCache:
    if cache is None:
        return model.new_cache()
    if not isinstance(cache, MemoryCache):
        raise UserError(
            f"past_key_values must be a MemoryCache, not {type(cache).__name__}; "
            "start with model.new_cache() or None"
        )
    cache.check(model.architecture, x.shape[0])
    if cache.states is not None:
        model.check_count(cache.states)
    if not cache.architecture:
        cache.architecture = model.architecture
    return cache
