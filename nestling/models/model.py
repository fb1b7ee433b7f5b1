"""The model without a head: tokens in, hidden states and a cache out."""

from collections.abc import Iterator
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers.cache_utils import Cache
from transformers.modeling_outputs import BaseModelOutputWithPast

from nestling.core.error import UserError
from nestling.core.memory import Flow
from nestling.models import in_context
from nestling.models.auto import announce
from nestling.models.backbone import Relay, blocks_of, kept_in_float32, read
from nestling.models.base import HopePreTrainedModel
from nestling.models.block import Block
from nestling.models.config import HopeConfig
from nestling.models.documents import packing_of
from nestling.models.entry import Asked, enter


class HopeModel(HopePreTrainedModel):
    """Embedding, the pattern of memories ``num_hidden_layers`` times, and a final RMSNorm."""

    def __init__(self, config: HopeConfig):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.blocks = blocks_of(config)
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.norm_eps)
        # the name Hugging Face switches; True: recompute each block in the backward pass
        self.gradient_checkpointing = False
        self.relay: Relay | None = None  # while a sequence is divided among processes
        self._keep_in_fp32_modules_strict = kept_in_float32(self.blocks)
        self.post_init()

    def each(self) -> Iterator[Block]:
        """The blocks, in order."""
        for block in self.blocks:
            assert isinstance(block, Block)
            yield block

    def init_states(self, batch: int) -> list[Any]:
        """The states of all blocks before the first token."""
        return [block.memory.init_state(batch) for block in self.each()]

    def stream(
        self,
        x: Float[Tensor, "B T D"],
        states: list[Any] | None = None,
        flow: Flow = Flow(),
        *,
        passed: list[Tensor] | None = None,
    ) -> tuple[Float[Tensor, "B T D"], list[Any]]:
        """Map embedded tokens to normalised hidden states, and advance every memory.

        States are a list with one entry per block; None starts fresh. ``passed`` collects the
        stream before every block, and the result.
        """
        recompute = self.gradient_checkpointing and self.training
        x, states = read(
            self.blocks, x, states, flow, recompute=recompute, passed=passed, relay=self.relay
        )
        x = self.norm(x)
        if passed is not None:
            passed.append(x)
        return x, states

    def forward(
        self,
        input_ids: Int[Tensor, "B T"] | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Float[Tensor, "B T D"] | None = None,
        use_cache: bool | None = None,
        reset: Tensor | None = None,
        cu_seqlens: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **more: Any,
    ) -> Any:
        """Normalised hidden states of every position, the cache, and the stream between the layers.

        ``hidden_states`` are num_hidden_layers + 1 tensors [B, T, D]: the embedding, the output of
        each repeat of the pattern and, for the last, that output normalised. The other keywords
        are those of ``HopeForCausalLM.forward``.
        """
        if in_context.signalled(self):
            raise UserError(
                "levels that learn from the next token need a head over the vocabulary: "
                'use HopeForCausalLM, or levels with objective="local"'
            )
        asked = Asked.of(
            self,
            past_key_values=past_key_values,
            use_cache=use_cache,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=return_dict,
        )
        packing = packing_of(more, reset=reset, position_ids=position_ids, cu_seqlens=cu_seqlens)
        entry = enter(self, input_ids, inputs_embeds, attention_mask, past_key_values, packing)
        if len(entry.cache.states or self.blocks) != len(self.blocks):
            raise UserError(
                "this memory is of a model whose head is a level, but this model has no head; "
                "continue with the model that read it"
            )
        hidden, states = self.stream(entry.x, entry.cache.states, entry.flow, passed=asked.passed)
        out = BaseModelOutputWithPast(
            last_hidden_state=hidden,  # ty: ignore[invalid-argument-type]
            past_key_values=entry.advance(states) if asked.cache else None,
            hidden_states=self.layers(asked.passed),
        )
        return out if asked.named else out.to_tuple()

    def layers(self, passed: list[Tensor] | None) -> Any:
        """Select the stream between the repeats of the pattern."""
        return None if passed is None else tuple(passed[:: len(self.config.pattern)])


announce(HopeModel, "AutoModel", "MODEL_MAPPING_NAMES")
