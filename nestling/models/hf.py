"""The language model as a Hugging Face model: train, save, generate with its own kind of cache."""

import json
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers.cache_utils import Cache
from transformers.generation import GenerationMixin
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.modeling_utils import PreTrainedModel
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from nestling.core.error import UserError
from nestling.core.level import Level
from nestling.core.memory import Flow, Memory
from nestling.memories.cms.chain import CMS
from nestling.models import in_context
from nestling.models.backbone import Backbone
from nestling.models.block import scale_outputs
from nestling.models.cache import MemoryCache
from nestling.models.config import HopeConfig

IGNORED = -100  # the label of a position that has none
ARCHITECTURE = ("hidden_size", "num_hidden_layers", "num_heads", "pattern", "memories")


class HopeForCausalLM(PreTrainedModel, GenerationMixin):
    """Embedding, backbone of memories and a head over the vocabulary."""

    config_class = HopeConfig
    base_model_prefix = "backbone"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = True
    # small sums decide over thousands of tokens: initial states and gates
    _keep_in_fp32_modules_strict = [
        "initial_first",
        "initial_second",
        "initial_layers",
        "theta_weight",
        "theta_bias",
        "eta_weight",
        "eta_bias",
        "alpha_weight",
        "alpha_bias",
        "mu_weight",
        "mu_bias",
        "log_rate",
        "erase_logit",
        "correction",
        "gamma_weight",
        "gamma_bias",
        "initial_weights",
        "initial_biases",
        "inner_scale",
        "inner_shift",
        "token_scale",
        "initial_weight",
        "share_logit",
        "mixture",
        "decay_bias",
        "log_decay",
        "step_bias",
        "skip",
    ]
    _no_split_modules = ["Block"]
    _supports_sdpa = True
    _is_stateful = True
    _tied_weights_keys = {"lm_head.weight": "backbone.embed_tokens.weight"}

    def __init__(self, config: HopeConfig):
        super().__init__(config)
        configs = config.memory_configs()
        self.backbone = Backbone(
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_size,
            num_heads=config.num_heads,
            repeats=config.num_hidden_layers,
            memories=[(name, configs[name]) for name in config.pattern],
            norm_eps=config.norm_eps,
        )
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        return False

    def get_input_embeddings(self) -> nn.Module:
        """The token embedding."""
        return self.backbone.embed_tokens

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the token embedding."""
        assert isinstance(value, nn.Embedding)
        self.backbone.embed_tokens = value

    def get_output_embeddings(self) -> nn.Module:
        """The head."""
        return self.lm_head

    def set_output_embeddings(self, new_embeddings: nn.Linear) -> None:
        """Replace the head."""
        self.lm_head = new_embeddings

    def new_cache(self) -> MemoryCache:
        """An empty memory for this model."""
        about = {key: getattr(self.config, key) for key in ARCHITECTURE}
        return MemoryCache(json.dumps(about, sort_keys=True))

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
    ) -> Any:
        """Logits of the next token at every position, the loss if labels are given, the cache.

        ``attention_mask`` ([B, T] or [B, past + T]) is 0 at positions that must change nothing,
        wherever they stand; ``reset`` is True at a token that starts a document; ``labels`` are
        shifted inside, -100 is ignored and so is the first token of a document that starts here.
        ``past_key_values`` is moved on in place and returned.
        """
        x = self._embed(input_ids, inputs_embeds)
        flow = self._flow(x, attention_mask, reset)
        if use_cache is None:
            use_cache = past_key_values is not None or (self.config.use_cache and not self.training)
        cache = self._cache(past_key_values, x)
        if in_context.signalled(self):
            if input_ids is None:
                raise UserError("levels that learn from the next token need input_ids")
            logits, states = in_context.read(self, input_ids, cache.states, flow)
            logits = kept(logits, logits_to_keep)
        else:
            hidden, states = self.backbone(x, cache.states, flow)
            logits = self.lm_head(kept(hidden, logits_to_keep))
        loss = None
        if labels is not None:
            loss = self._loss(logits, labels, reset, num_items_in_batch)
        if use_cache:
            length = x.shape[1]
            whole = torch.full((x.shape[0],), length, device=x.device)
            cache.advance(states, length, whole if flow.mask is None else flow.mask.sum(1))
        out = CausalLMOutputWithPast(
            loss=loss,  # ty: ignore[invalid-argument-type]
            logits=logits,  # ty: ignore[invalid-argument-type]
            past_key_values=cache if use_cache else None,
        )
        return out.to_tuple() if return_dict is False else out

    def _embed(
        self, input_ids: Int[Tensor, "B T"] | None, inputs_embeds: Float[Tensor, "B T D"] | None
    ) -> Float[Tensor, "B T D"]:
        if inputs_embeds is not None and input_ids is None:
            return inputs_embeds
        if input_ids is None or inputs_embeds is not None:
            raise UserError("give either input_ids or inputs_embeds")
        vocabulary = self.backbone.embed_tokens.num_embeddings
        # on an accelerator the check would wait for the device at every call
        if input_ids.device.type == "cpu" and input_ids.numel():
            low, high = (int(end) for end in torch.aminmax(input_ids))
            if low < 0 or high >= vocabulary:
                raise UserError(
                    f"token {low if low < 0 else high} is not in the model's vocabulary of "
                    f"{vocabulary}: use the tokenizer the model was trained with"
                )
        return self.backbone.embed_tokens(input_ids)

    def _flow(
        self,
        x: Float[Tensor, "B T D"],
        attention_mask: Tensor | None,
        reset: Bool[Tensor, "B T"] | None,
    ) -> Flow:
        length = x.shape[1]
        if attention_mask is not None:
            if attention_mask.dim() != 2 or attention_mask.shape[1] < length:
                raise UserError(
                    f"attention_mask must be [batch, {length}] or longer on the left, "
                    f"not {list(attention_mask.shape)}"
                )
            attention_mask = attention_mask[:, attention_mask.shape[1] - length :].bool()
            if bool(attention_mask.all()):
                attention_mask = None
        if reset is not None and not bool(reset.any()):
            reset = None
        return Flow(reset=reset, mask=attention_mask)

    def _cache(self, cache: Cache | None, x: Float[Tensor, "B T D"]) -> MemoryCache:
        if cache is None:
            return self.new_cache()
        if not isinstance(cache, MemoryCache):
            raise UserError(
                f"past_key_values must be a MemoryCache, not {type(cache).__name__}: "
                "start with model.new_cache() or with none"
            )
        if cache.batch_size not in (-1, x.shape[0]):
            raise UserError(
                f"the memory holds {cache.batch_size} rows and the batch {x.shape[0]}: "
                "use cache.batch_repeat_interleave or one cache a batch"
            )
        return cache

    def _loss(
        self,
        logits: Float[Tensor, "B T V"],
        labels: Int[Tensor, "B L"],
        reset: Bool[Tensor, "B T"] | None,
        num_items_in_batch: Any,
    ) -> Float[Tensor, ""]:
        if logits.shape[1] != labels.shape[1]:
            raise UserError("labels need the logits of every position: leave logits_to_keep at 0")
        if reset is not None:
            labels = labels.masked_fill(reset, IGNORED)
        return self.loss_function(
            logits=logits,
            labels=labels,
            vocab_size=logits.shape[-1],
            num_items_in_batch=num_items_in_batch,
        )

    @torch.no_grad()
    def _init_weights(self, module: nn.Module, generator: torch.Generator | None = None) -> None:
        if isinstance(module, Memory):
            module.init_weights(generator)
            scale_outputs(module, len(self.backbone.blocks))
        elif isinstance(module, nn.RMSNorm):
            module.weight.fill_(1.0)
        elif isinstance(module, nn.Embedding | nn.Linear):
            module.weight.normal_(std=self.config.initializer_range, generator=generator)

    @torch.no_grad()
    def initialize_weights(self, generator: torch.Generator | None = None) -> None:
        """Set every parameter that was not loaded, and every non-persistent buffer.

        Called by the constructor and after loading; the generator is torch's own if None.
        """
        inside = [part for block in self.backbone.each() for part in (block.norm, block.memory)]
        for part in (self.backbone.embed_tokens, *inside, self.backbone.norm, self.lm_head):
            if part is None:
                continue
            tensors = [*part.parameters(), *part.buffers()]
            loaded = [t for t in tensors if getattr(t, "_is_hf_initialized", False)]
            if len(loaded) == len(tensors):
                continue
            kept = [tensor.clone() for tensor in loaded]
            self._init_weights(part, generator)
            for tensor, value in zip(loaded, kept, strict=True):
                tensor.copy_(value)

    def init_states(self, batch: int) -> list[Any]:
        """What the model remembers before the first token of ``batch`` rows."""
        return in_context.init_states(self, batch)

    def levels(self) -> dict[str, Level]:
        """The boxes of the nested system by the block they live in, in the order of the blocks."""
        return {
            f"{index}.{level.name}": level
            for index, block in enumerate(self.backbone.each())
            for level in block.memory.levels()
        }

    def parameter_periods(self) -> dict[str, int]:
        """For each parameter the tokens between two writes by training; 0 = every step."""
        periods = {
            id(parameter): int(level.period)
            for module in self.modules()
            if isinstance(module, CMS)
            for level, parameters in module.level_parameters()
            for parameter in parameters
        }
        return {name: periods.get(id(value), 0) for name, value in self.named_parameters()}

    def parameter_shares(self) -> dict[str, float]:
        """For each parameter of a nested level the share that its start takes up at a reset."""
        shares = {
            id(parameter): share
            for module in self.modules()
            if isinstance(module, CMS)
            for share, (_, parameters) in zip(
                module.shares(), module.level_parameters(), strict=True
            )
            if share is not None
            for parameter in parameters
        }
        return {n: shares[id(p)] for n, p in self.named_parameters() if id(p) in shares}


def kept(x: Float[Tensor, "B T N"], positions: int | Tensor) -> Float[Tensor, "B K N"]:
    """The last so many positions (0: all), or these."""
    if isinstance(positions, int):
        return x[:, max(x.shape[1] - positions, 0) :] if positions else x
    return x[:, positions]


AutoModelForCausalLM.register(HopeConfig, HopeForCausalLM, exist_ok=True)
