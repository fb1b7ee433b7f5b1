"""Transformer++ with the weights of a Llama or Mistral has its logits."""

import re

import torch
from tolerances import relative_rms
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from nestling.models import create, preset

NAMES = {
    r"model\.embed_tokens\.weight": "backbone.embed_tokens.weight",
    r"model\.norm\.weight": "backbone.norm.weight",
    r"lm_head\.weight": "lm_head.weight",
}
PARTS = {
    "input_layernorm": (0, "norm"),
    "self_attn.q_proj": (0, "memory.query"),
    "self_attn.k_proj": (0, "memory.key"),
    "self_attn.v_proj": (0, "memory.value"),
    "self_attn.o_proj": (0, "memory.output"),
    "post_attention_layernorm": (1, "norm"),
    "mlp.gate_proj": (1, "memory.network.gate"),
    "mlp.up_proj": (1, "memory.network.up"),
    "mlp.down_proj": (1, "memory.network.output"),
}


def translated(name: str) -> str:
    if layer := re.fullmatch(r"model\.layers\.(\d+)\.(.*)\.weight", name):
        offset, part = PARTS[layer[2]]
        return f"backbone.blocks.{2 * int(layer[1]) + offset}.{part}.weight"
    return next(ours for theirs, ours in NAMES.items() if re.fullmatch(theirs, name))


def assert_same_logits(name: str, kind: type, config_kind: type, **options):
    """Two layers of a preset, with the weights of a transformers model of that shape."""
    torch.manual_seed(0)
    ours = create(name, vocab_size=101, num_hidden_layers=2)
    config = config_kind(
        vocab_size=101,
        hidden_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=ours.config.memories["attention"]["num_kv_heads"],
        intermediate_size=ours.config.memories["mlp"]["intermediate_size"],
        rms_norm_eps=ours.config.norm_eps,
        tie_word_embeddings=True,
        max_position_embeddings=512,
        **options,
    )
    theirs = kind(config).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.normal_(std=0.1)
    weights = {translated(name): value for name, value in theirs.state_dict().items()}
    ours.load_state_dict(weights)
    ids = torch.randint(0, 101, (2, 200))
    mask = torch.ones_like(ids)
    mask[1, :60] = 0
    with torch.no_grad():
        for attention_mask in (None, mask):
            expected = theirs(ids, attention_mask=attention_mask).logits
            found = ours(ids, attention_mask=attention_mask).logits
            valid = mask.bool() if attention_mask is not None else torch.ones_like(mask).bool()
            assert relative_rms(found[valid], expected[valid]) < 1e-4
            torch.testing.assert_close(found[valid], expected[valid], rtol=1e-4, atol=1e-4)


def test_matches_llama():
    assert_same_logits("transformer-tiny", LlamaForCausalLM, LlamaConfig)


def test_matches_mistral_with_window():
    window = preset("sliding-window-tiny")["memories"]["attention"]["window"]
    assert window < 200
    assert_same_logits(
        "sliding-window-tiny", MistralForCausalLM, MistralConfig, sliding_window=window
    )
