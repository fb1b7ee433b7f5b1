"""The base class of all models, for transformers: weights, levels, embeddings."""

import functools
import json
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers.modeling_utils import PreTrainedModel

from nestling.core.level import Level
from nestling.core.memory import Memory, TrainedLevel
from nestling.memories.head import KEYS, HeadLevel
from nestling.models import in_context
from nestling.models.block import scale_outputs
from nestling.models.cache import MemoryCache
from nestling.models.config import HopeConfig
from nestling.models.hub import hub_errors, push_card

if TYPE_CHECKING:
    from nestling.models.model import HopeModel

ARCHITECTURE = ("hidden_size", "num_hidden_layers", "num_heads", "pattern", "memories")


class HopePreTrainedModel(PreTrainedModel):
    """A ``HopeModel``, or a model with a head whose ``backbone`` is one."""

    config_class = HopeConfig
    base_model_prefix = "backbone"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _no_split_modules = ["Block"]
    _supports_sdpa = True

    @property
    def body(self) -> "HopeModel":
        """The model without its head."""
        body: Any = self.base_model
        return body

    def new_cache(self) -> MemoryCache:
        """An empty memory for this model."""
        return MemoryCache(self.architecture)

    @functools.cached_property
    def architecture(self) -> str:
        """What another model must share with this one to continue from its memory, as JSON."""
        about = {key: getattr(self.config, key) for key in ARCHITECTURE}
        if self.config.head_period is not None:
            about["head_period"] = self.config.head_period
        if self.config.head_keys != KEYS[0]:
            about["head_keys"] = self.config.head_keys
        if self.config.head_slots is not None:
            about["head_slots"] = self.config.head_slots
        return json.dumps(about, sort_keys=True)

    def check_count(self, states: list[Any]) -> None:
        """Raise UserError unless there is one state per block.

        A model whose head is a level has one more state; its body alone does not.
        """
        wanted = len(self.body.blocks) + bool(in_context.signalled(self))
        head = self.config.head_period is not None
        if not isinstance(states, list) or len(states) not in (wanted, wanted + head):
            raise UserError(f"the memory has {len(states)} states; this model keeps {wanted}")

    def check_states(self, states: list[Any], rows: int) -> None:
        """Raise UserError unless these are states of this model for ``rows`` rows."""
        self.check_count(states)
        for block, state in zip(self.body.each(), states, strict=False):
            block.memory.verify(state, B=rows)
        if in_context.signalled(self):
            in_context.check_waiting(self, states[-1], rows)

    def get_input_embeddings(self) -> nn.Module:
        """The token embedding."""
        return self.body.embed_tokens

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the token embedding."""
        assert isinstance(value, nn.Embedding)
        self.body.embed_tokens = value

    @torch.no_grad()
    def _init_weights(self, module: nn.Module, generator: torch.Generator | None = None) -> None:
        if isinstance(module, HeadLevel):
            module.init_weights(generator)
        elif isinstance(module, Memory):
            module.init_weights(generator)
            scale_outputs(module, len(self.body.blocks))
        elif isinstance(module, nn.RMSNorm):
            module.weight.fill_(1.0)
        elif isinstance(module, nn.Embedding | nn.Linear):
            module.weight.normal_(std=self.config.initializer_range, generator=generator)
            if isinstance(module, nn.Linear) and module.bias is not None:
                module.bias.zero_()

    @torch.no_grad()
    def initialize_weights(self, generator: torch.Generator | None = None) -> None:
        """Initialise every parameter that was not loaded, and every non-persistent buffer.

        Called by the constructor and after loading; None uses torch's global generator.
        """
        body = self.body
        inside = [part for block in body.each() for part in (block.norm, block.memory)]
        heads = [part for part in self.children() if part is not body] if body is not self else []
        for part in (body.embed_tokens, *inside, body.norm, *heads):
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

    def push_to_hub(self, repo_id: str, *, licence: str | None = None, **options: Any) -> str:
        """Push to the Hugging Face hub, with a model card: levels, size, and how to load it.

        ``options`` are those of transformers. An existing card is kept. Errors of the hub or the
        network raise UserError.
        """
        with hub_errors(f"push to {repo_id}"):
            whole = push_card(self, repo_id, licence, **options)
            return super().push_to_hub(whole, **options)

    def levels(self) -> dict[str, Level]:
        """The levels of the nested system, by block and name, in the order of the blocks."""
        return {
            f"{index}.{level.name}": level
            for index, block in enumerate(self.body.each())
            for level in block.levels()
        }

    def trained_levels(self) -> list[TrainedLevel]:
        """The levels that training writes at their own periods, block by block."""
        return [level for block in self.body.each() for level in block.memory.trained_levels()]

    def parameter_periods(self) -> dict[str, int]:
        """For each parameter, the tokens between two writes by training; 0: every step."""
        periods = {id(p): level.period for level in self.trained_levels() for p in level.parameters}
        return {name: periods.get(id(value), 0) for name, value in self.named_parameters()}

    def parameter_rates(self, *, by_role: bool = True, layers: float = 1.0) -> dict[str, float]:
        """Learning-rate factors by parameter; 1 for all others.

        Those that the memories declare (``by_role``), and ``layers`` for all parameters of the
        layers, which are all but those of the embedding, the last norm and the head.
        """
        factors = {}
        for block in self.body.each():
            if layers != 1:
                factors.update((id(value), layers) for value in block.parameters())
            parameters = dict(block.memory.named_parameters())
            for name, factor in block.memory.rate_factors().items() if by_role else ():
                factors[id(parameters[name])] = layers * factor
        return {n: factors[id(p)] for n, p in self.named_parameters() if id(p) in factors}

    def parameter_shares(self) -> dict[str, float]:
        """For each parameter of a nested level, the share by which a reset moves its start."""
        shares = {
            id(parameter): level.share
            for level in self.trained_levels()
            if level.share is not None
            for parameter in level.parameters
        }
        return {n: shares[id(p)] for n, p in self.named_parameters() if id(p) in shares}
