"""Tiny random transformers models of every family that can be adapted."""

import torch
from transformers import AutoConfig, AutoModelForCausalLM

VOCABULARY = 64
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
# other names and additional options of a family
OPTIONS = {
    "gpt2": {
        "vocab_size": VOCABULARY,
        "n_embd": 16,
        "n_inner": 24,
        "n_layer": 4,
        "n_head": 2,
        "n_positions": 64,
        "bos_token_id": 0,
        "eos_token_id": 0,
    },
    "gemma2": {**SIZES, "sliding_window": 8, "query_pre_attn_scalar": 8},
    "gemma3_text": {**SIZES, "sliding_window": 8, "query_pre_attn_scalar": 8},
    "mistral": {**SIZES, "sliding_window": 8},
    "phi3": {k: v for k, v in SIZES.items() if k != "head_dim"},
}


def tiny_base(model_type: str, *, seed: int = 0, vocab_size: int = VOCABULARY):
    """A random model of a family: 4 layers, width 16, at most 64 positions."""
    options = {**OPTIONS.get(model_type, SIZES), "vocab_size": vocab_size}
    config = AutoConfig.for_model(model_type, **options)
    state = torch.get_rng_state()
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config).eval()
    torch.set_rng_state(state)
    return model
