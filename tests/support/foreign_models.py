"""Tiny random transformers models of many architectures, mostly recurrent and hybrid."""

import dataclasses
import inspect

import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

VOCABULARY = 258  # of bytes
# names of these options in an architecture
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "max_position_embeddings": 256,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 1,
}
MAMBA2 = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_chunk_size": 8}
DELTA = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "layer_types": ["linear_attention", "full_attention"],
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
# its additional options
OPTIONS = {
    "llama": {},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 256},
    "openai-gpt": {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 256},
    "gptj": {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 256, "rotary_dim": 8},
    "gpt_neo": {"num_layers": 2, "num_heads": 2, "attention_types": [[["global", "local"], 1]]},
    "mamba": {"state_size": 4},
    "falcon_mamba": {"state_size": 4},
    "mamba2": {"num_heads": 4, "head_dim": 16, "state_size": 8, "n_groups": 1, "chunk_size": 8},
    "rwkv": {"context_length": 256},
    "recurrent_gemma": {
        "num_hidden_layers": 3, "num_key_value_heads": 1, "attention_window_size": 16,
        "lru_width": 32,
    },
    "reformer": {
        "is_decoder": True, "attention_head_size": 16, "axial_pos_shape": [16, 16],
        "axial_pos_embds_dim": [16, 16], "attn_layers": ["local", "lsh"], "hash_seed": 0,
        "local_attn_chunk_length": 8, "lsh_attn_chunk_length": 8, "num_buckets": 4,
        "feed_forward_size": 48,
    },
    "jamba": {
        "attn_layer_period": 2, "attn_layer_offset": 1, "num_experts": 2,
        "mamba_d_state": 4, "use_mamba_kernels": False,
    },
    "bamba": {**MAMBA2, "attn_layer_indices": [1]},
    "granitemoehybrid": {
        **MAMBA2, "layer_types": ["mamba", "attention"], "num_local_experts": 2,
        "num_experts_per_tok": 1, "shared_intermediate_size": 16,
    },
    "falcon_h1": {**MAMBA2, "mamba_d_ssm": 64},
    "minimax": {
        "layer_types": ["linear_attention", "full_attention"], "block_size": 8,
        "num_local_experts": 2,
    },
    "qwen3_next": {**DELTA, **EXPERTS, "shared_expert_intermediate_size": 16},
    "qwen3_5_text": DELTA,
    "olmo_hybrid": {**DELTA, "num_key_value_heads": 2},
    "zamba": {
        "num_hidden_layers": 5, "layers_block_type": ["mamba", "hybrid"] * 2 + ["mamba"],
        "n_mamba_heads": 2, "mamba_d_state": 4, "attention_head_dim": 32,
        "use_mamba_kernels": False, "num_key_value_heads": 2,
    },
    "zamba2": {
        "num_hidden_layers": 3, "layers_block_type": ["mamba", "hybrid", "mamba"],
        "n_mamba_heads": 4, "mamba_d_state": 8, "chunk_size": 8, "use_mamba_kernels": False,
        "attention_head_dim": 32, "num_key_value_heads": 2,
    },
    "nemotron_h": {
        "layers_block_type": ["mamba", "attention", "mlp"], "mamba_num_heads": 4,
        "mamba_head_dim": 16, "ssm_state_size": 8, "n_groups": 1, "chunk_size": 8,
        "use_mamba_kernels": False, "num_hidden_layers": 3,
    },
    "lfm2": {"layer_types": ["conv", "full_attention"], "block_auto_adjust_ff_dim": False},
    "lfm2_moe": {
        "layer_types": ["conv", "full_attention"], "num_experts": 2, "num_experts_per_tok": 1,
        "moe_intermediate_size": 16, "num_dense_layers": 1,
    },
    "kimi_linear": {
        "layer_types": ["linear_attention", "full_attention"], "linear_num_heads": 2,
        "linear_head_dim": 8, "num_local_experts": 2, "num_experts_per_tok": 1,
        "moe_intermediate_size": 16, "kv_lora_rank": 8, "qk_nope_head_dim": 8, "v_head_dim": 8,
        "num_key_value_heads": 2,
    },
    "mistral": {"sliding_window": 8},
    "gemma2": {"sliding_window": 8, "query_pre_attn_scalar": 8},
    "bert": {"is_decoder": False},
    "mpt": {"d_model": 32, "n_heads": 2, "n_layers": 2, "max_seq_len": 256},
    "bloom": {"n_layer": 2, "n_head": 2},
    "xlnet": {"d_model": 32, "n_layer": 2, "n_head": 2, "d_inner": 48},
}  # fmt: skip


def tiny_model_of(kind: str, *, seed: int = 0):
    """A random model of an architecture: 2 or 3 layers of width 32, 258 tokens."""
    fields = {f.name for f in dataclasses.fields(CONFIG_MAPPING[kind])} | set(
        inspect.signature(CONFIG_MAPPING[kind].__init__).parameters
    )
    fields |= set(getattr(CONFIG_MAPPING[kind], "attribute_map", {}))
    options = {name: size for name, size in SIZES.items() if name in fields}
    config = AutoConfig.for_model(kind, **{**options, **OPTIONS.get(kind, {})})
    state = torch.get_rng_state()
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config)
    # weights large enough that earlier text affects predictions
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)
    torch.set_rng_state(state)
    return model.eval()
