"""The language model as a Hugging Face model: train, save, generate with its own kind of cache."""

from typing import Any

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers.cache_utils import Cache
from transformers.generation import GenerationMixin
from transformers.initialization import no_init_weights
from transformers.modeling_outputs import CausalLMOutputWithPast

from nestling.core.error import UserError
from nestling.models import in_context
from nestling.models.auto import announce
from nestling.models.base import HopePreTrainedModel
from nestling.models.config import HopeConfig
from nestling.models.documents import packed
from nestling.models.entry import Asked, enter
from nestling.models.model import HopeModel

IGNORED = -100  # the label of a position that has none


class HopeForCausalLM(HopePreTrainedModel, GenerationMixin):
    """Embedding, backbone of memories and a head over the vocabulary."""

    accepts_loss_kwargs = True
    _is_stateful = True
    _tied_weights_keys = {"lm_head.weight": "backbone.embed_tokens.weight"}

    def __init__(self, config: HopeConfig):
        super().__init__(config)
        with no_init_weights():  # post_init draws all weights, once
            self.backbone = HopeModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        return False

    def _prepare_position_ids_for_generation(self, *args: Any, **kwargs: Any) -> None:
        """None: memories count for themselves, and a position 0 would begin a document."""

    def get_output_embeddings(self) -> nn.Module:
        """The head."""
        return self.lm_head

    def set_output_embeddings(self, new_embeddings: nn.Linear) -> None:
        """Replace the head."""
        self.lm_head = new_embeddings

    def forward(
        self,
        input_ids: Int[Tensor, "B T"] | None = None,
        attention_mask: Tensor | None = None,
        labels: Int[Tensor, "B T"] | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool | None = None,
        reset: Bool[Tensor, "B T"] | None = None,
        inputs_embeds: Float[Tensor, "B T D"] | None = None,
        num_items_in_batch: Any = None,
        logits_to_keep: int | Tensor = 0,
        return_dict: bool | None = None,
        position_ids: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        cu_seqlens: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        **more: Any,
    ) -> Any:
        """Logits of the next token at every position, the loss if labels are given, the cache.

        ``attention_mask`` ([B, T] or [B, past + T]) is 0 at positions that must change nothing,
        wherever they stand; ``reset`` is True at a token that starts a document; ``labels`` are
        shifted inside, -100 is ignored and so is the first token of a document that starts here.
        ``past_key_values`` is moved on in place and returned.

        Documents may also be marked as other libraries do it: by ``position_ids`` that are 0 at
        their first token, by ``cu_seqlens`` [N + 1] (or ``cu_seq_lens_q``), where each begins in a
        batch of one row, and the end, or by ``seq_idx``, their number. ``shift_labels`` are labels
        that are shifted already. ``hidden_states`` are those of ``HopeModel.forward``.
        ``cache_position``, ``token_type_ids`` and ``max_length_q`` are taken and not needed; an
        unknown keyword, and a wish for attention weights, raises UserError.
        """
        asked = Asked.of(
            self,
            past_key_values=past_key_values,
            use_cache=use_cache,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=return_dict,
        )
        shift_labels = more.pop("shift_labels", None)
        packing = packed(more, reset=reset, position_ids=position_ids, cu_seqlens=cu_seqlens)
        x, flow, cache = entry = enter(
            self.backbone, input_ids, inputs_embeds, attention_mask, past_key_values, packing
        )
        if in_context.signalled(self):
            if input_ids is None:
                raise UserError("levels that learn from the next token need input_ids")
            read = in_context.read(self, input_ids, cache.states, flow, passed=asked.passed)
            logits, states = kept(read[0], logits_to_keep), read[1]
        else:
            hidden, states = self.backbone.stream(x, cache.states, flow, passed=asked.passed)
            logits = self.lm_head(kept(hidden, logits_to_keep))
        loss = None
        if labels is not None or shift_labels is not None:
            loss = self._loss(logits, labels, shift_labels, flow.reset, num_items_in_batch)
        out = CausalLMOutputWithPast(
            loss=loss,  # ty: ignore[invalid-argument-type]
            logits=logits,  # ty: ignore[invalid-argument-type]
            past_key_values=entry.advance(states) if asked.cache else None,
            hidden_states=self.backbone.layers(asked.passed),
        )
        return out if asked.named else out.to_tuple()

    def _loss(
        self,
        logits: Float[Tensor, "B T V"],
        labels: Int[Tensor, "B L"] | None,
        shift_labels: Int[Tensor, "B L"] | None,
        reset: Bool[Tensor, "B T"] | None,
        num_items_in_batch: Any,
    ) -> Float[Tensor, ""]:
        given = labels if shift_labels is None else shift_labels
        assert given is not None
        if logits.shape[1] != given.shape[1]:
            raise UserError("labels need the logits of every position: leave logits_to_keep at 0")
        if reset is not None and labels is not None:
            labels = labels.masked_fill(reset, IGNORED)
        if reset is not None and shift_labels is not None:
            begins = nn.functional.pad(reset[:, 1:], (0, 1))
            shift_labels = shift_labels.masked_fill(begins, IGNORED)
        return self.loss_function(
            logits=logits,
            labels=labels,
            vocab_size=logits.shape[-1],
            num_items_in_batch=num_items_in_batch,
            shift_labels=shift_labels,
        )

    def init_states(self, batch: int) -> list[Any]:
        """What the model remembers before the first token of ``batch`` rows."""
        return in_context.init_states(self, batch)


def kept(x: Float[Tensor, "B T N"], positions: int | Tensor) -> Float[Tensor, "B K N"]:
    """The last so many positions (0: all), or these."""
    if isinstance(positions, int):
        return x[:, max(x.shape[1] - positions, 0) :] if positions else x
    return x[:, positions]


announce(HopeForCausalLM, "AutoModelForCausalLM", "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES")
announce(HopeForCausalLM, "AutoModelForPreTraining", "MODEL_FOR_PRETRAINING_MAPPING_NAMES")
