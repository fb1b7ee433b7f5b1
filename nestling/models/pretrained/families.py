"""Where each family of pretrained models has its MLPs: one line per family."""

from typing import NamedTuple

from torch import nn

from nestling.core.error import UserError, did_you_mean


class Family(NamedTuple):
    """The names of modules in a causal language model of transformers."""

    layers: str  # dotted name of the list of layers
    mlp: str  # name of the feed-forward network in a layer
    output: str  # name of its map back to the residual stream
    width: str = "intermediate_size"  # option of the configuration with the width of that network
    fused: int = 1  # input maps concatenated in one weight


# by model_type of transformers; SmolLM and SmolLM2 are of type llama
FAMILIES = {
    "llama": Family("model.layers", "mlp", "down_proj"),
    "mistral": Family("model.layers", "mlp", "down_proj"),
    "qwen2": Family("model.layers", "mlp", "down_proj"),
    "qwen3": Family("model.layers", "mlp", "down_proj"),
    "smollm3": Family("model.layers", "mlp", "down_proj"),
    "phi3": Family("model.layers", "mlp", "down_proj", fused=2),
    "olmo2": Family("model.layers", "mlp", "down_proj"),
    "gemma": Family("model.layers", "mlp", "down_proj"),
    "gemma2": Family("model.layers", "mlp", "down_proj"),
    "gemma3_text": Family("model.layers", "mlp", "down_proj"),
    "gpt2": Family("transformer.h", "mlp", "c_proj", width="n_inner"),
}


def family_of(model_type: str) -> Family:
    """The module names of a family; an unknown one raises UserError."""
    if model_type not in FAMILIES:
        raise UserError(
            f"models of type {model_type!r} cannot be adapted yet: "
            f"{did_you_mean(model_type, FAMILIES)} (a family is one line in FAMILIES)"
        )
    return FAMILIES[model_type]


def mlp_names(model: nn.Module, model_type: str) -> list[str]:
    """Dotted names of the feed-forward networks, from the lowest layer to the highest."""
    family = family_of(model_type)
    layers = model.get_submodule(family.layers)
    return [f"{family.layers}.{index}.{family.mlp}" for index, _ in layers.named_children()]
