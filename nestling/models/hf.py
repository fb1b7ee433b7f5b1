"""The language model as a Hugging Face model: train, save, and generate with a MemoryCache."""

from typing import Any

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers.cache_utils import Cache
from transformers.generation import GenerationMixin
from transformers.generation.configuration_utils import GenerationMode
from transformers.initialization import no_init_weights
from transformers.modeling_outputs import CausalLMOutputWithPast

from nestling.core.error import UserError
from nestling.core.level import Level
from nestling.core.memory import Flow
from nestling.memories.head import HeadLevel
from nestling.models import in_context
from nestling.models.auto import announce
from nestling.models.base import HopePreTrainedModel
from nestling.models.config import HopeConfig
from nestling.models.documents import packing_of
from nestling.models.entry import Asked, enter
from nestling.models.model import HopeModel

IGNORED = -100  # the label of a position without one


class HopeForCausalLM(HopePreTrainedModel, GenerationMixin):
    """Embedding, backbone of memories and a head over the vocabulary."""

    accepts_loss_kwargs = True
    _is_stateful = True
    _keep_in_fp32_modules_strict = ["head_level"]
    _tied_weights_keys = {"lm_head.weight": "backbone.embed_tokens.weight"}

    def __init__(self, config: HopeConfig):
        super().__init__(config)
        with no_init_weights():  # post_init draws all weights, once
            self.backbone = HopeModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.head_level = None
        if config.head_period is not None:
            about = config.head_period, config.head_keys, config.head_slots
            self.head_level = HeadLevel(config.hidden_size, *about)
        self.post_init()

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        return False

    def _prepare_position_ids_for_generation(self, *args: Any, **kwargs: Any) -> None:
        """None: memories count positions themselves, and a position 0 would start a document."""

    def _validate_generation_mode(
        self, generation_mode: Any, generation_config: Any, generation_mode_kwargs: Any
    ) -> None:
        """Refuse drafts, by a model or from the prompt; transformers checks everything else."""
        if generation_mode == GenerationMode.ASSISTED_GENERATION:
            raise UserError(
                "assisted generation must undo wrong drafts, which a memory cannot; "
                "generate without assistant_model and prompt_lookup_num_tokens"
            )
        given: Any = super()  # its annotations require a private protocol of transformers
        given._validate_generation_mode(generation_mode, generation_config, generation_mode_kwargs)

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

        ``attention_mask`` ([B, T] or [B, past + T]) is 0 at positions to ignore, anywhere in a row;
        ``reset`` is True at the first token of a document. ``labels`` are shifted inside; -100 is
        ignored, and so is the label of the first token of a document that starts in this call.
        ``past_key_values`` is updated in place and returned.

        Documents may also be marked as in other libraries: by ``position_ids`` that are 0 at their
        first tokens; by ``cu_seqlens`` [N + 1] (or ``cu_seq_lens_q``), the first tokens and the
        end, for a single row; or by ``seq_idx``, their numbers. ``shift_labels`` are labels that
        are already shifted. ``hidden_states`` are those of ``HopeModel.forward``.
        ``cache_position``, ``token_type_ids`` and ``max_length_q`` are accepted and ignored; an
        unknown keyword or a request for attention weights raises UserError.
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
        packing = packing_of(more, reset=reset, position_ids=position_ids, cu_seqlens=cu_seqlens)
        x, flow, cache = entry = enter(
            self.backbone, input_ids, inputs_embeds, attention_mask, past_key_values, packing
        )
        waits = bool(in_context.signalled(self))
        if input_ids is None and (waits or self.head_level is not None):
            raise UserError("levels that learn from the next token need input_ids")
        if waits:
            assert input_ids is not None
            read = in_context.read(self, input_ids, cache.states, flow, passed=asked.passed)
            logits, states = positions_kept(read[0], logits_to_keep), read[1]
        else:
            logits, states = self.stream(
                x, input_ids, cache.states, flow, passed=asked.passed, keep=logits_to_keep
            )
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
            raise UserError("labels need the logits of every position; leave logits_to_keep at 0")
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

    def stream(
        self,
        x: Float[Tensor, "B T D"],
        ids: Int[Tensor, "B T"] | None,
        states: list[Any] | None,
        flow: Flow = Flow(),
        *,
        passed: list[Tensor] | None = None,
        keep: int | Tensor = 0,
    ) -> tuple[Float[Tensor, "B K V"], list[Any]]:
        """Map embedded tokens to logits (``keep`` as ``logits_to_keep``), and advance all states.

        The states are those of the blocks, followed by the head's if it is a level; such a head
        also needs the token ids. ``passed`` as in ``HopeModel.stream``.
        """
        if self.head_level is None:
            hidden, states = self.backbone.stream(x, states, flow, passed=passed)
            return self.lm_head(positions_kept(hidden, keep)), states
        assert ids is not None
        *blocks, own = self.own_states(len(x)) if states is None else states
        self.head_level.verify(own, len(x), self.config.vocab_size)
        hidden, blocks = self.backbone.stream(x, blocks, flow, passed=passed)
        last = keep if isinstance(keep, int) else 0
        logits, own = self.head_level(self.lm_head, hidden, x, ids, own, flow, last=last)
        return logits if isinstance(keep, int) else positions_kept(logits, keep), [*blocks, own]

    def own_states(self, batch: int) -> list[Any]:
        """The states that ``stream`` starts with."""
        states = self.backbone.init_states(batch)
        if self.head_level is None:
            return states
        return [*states, self.head_level.init_state(batch, self.config.vocab_size)]

    def init_states(self, batch: int) -> list[Any]:
        """The states before the first token, for ``batch`` rows."""
        return in_context.init_states(self, batch)

    def levels(self) -> dict[str, Level]:
        """The levels of the blocks, and the head if it is one."""
        found = super().levels()
        if self.head_level is not None:
            found["head"] = self.head_level.level(self.config.vocab_size)
        return found


def positions_kept(x: Float[Tensor, "B T N"], positions: int | Tensor) -> Float[Tensor, "B K N"]:
    """The last ``positions`` positions (0: all), or those that a tensor lists."""
    if isinstance(positions, int):
        return x[:, max(x.shape[1] - positions, 0) :] if positions else x
    return x[:, positions]


announce(HopeForCausalLM, "AutoModelForCausalLM", "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES")
announce(HopeForCausalLM, "AutoModelForPreTraining", "MODEL_FOR_PRETRAINING_MAPPING_NAMES")
