"""A GGUF file loads as a model with its weights, which can be saved."""

from pathlib import Path

import gguf
import pytest
import torch
from tiny_bases import SIZES, VOCABULARY, tiny_base

from nestling.core.error import UserError
from nestling.models.foreign import lies_outside, load_causal_lm
from nestling.models.pretrained import Base, load_base, load_stacked, parse_levels, save_stacked

NAMES = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
OUTER = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}


def write(model, path):
    """A llama in the format's layout: rotary pairs interleaved, not in halves."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(SIZES["max_position_embeddings"])
    writer.add_embedding_length(SIZES["hidden_size"])
    writer.add_block_count(SIZES["num_hidden_layers"])
    writer.add_feed_forward_length(SIZES["intermediate_size"])
    writer.add_head_count(SIZES["num_attention_heads"])
    writer.add_head_count_kv(SIZES["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(model.config.rms_norm_eps)
    writer.add_rope_dimension_count(SIZES["head_dim"])
    writer.add_vocab_size(VOCABULARY)
    heads = {"q": SIZES["num_attention_heads"], "k": SIZES["num_key_value_heads"]}
    for name, value in model.state_dict().items():
        value = value.clone()
        if name in OUTER:
            writer.add_tensor(OUTER[name], value.numpy())
            continue
        _, _, layer, *inner, last = name.split(".")
        part = ".".join(inner)
        if part in ("self_attn.q_proj", "self_attn.k_proj"):
            count = heads[part[10]]
            halves = value.reshape(count, 2, -1, value.shape[1])
            value = halves.transpose(1, 2).reshape(value.shape).contiguous()
        writer.add_tensor(f"blk.{layer}.{NAMES[part]}.{last}", value.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_gguf_load_and_save_round_trip(tmp_path, capsys):
    model = tiny_base("llama")
    write(model, tmp_path / "tiny.gguf")
    base = load_base(tmp_path / "tiny.gguf")
    assert capsys.readouterr() == ("", "")
    ids = torch.arange(40)[None] % VOCABULARY
    with torch.no_grad():
        expected = model(ids).logits
        torch.testing.assert_close(base.model(ids).logits, expected, rtol=0, atol=1e-5)
        save_stacked(base, parse_levels("8,32"), "partition", tmp_path / "out")
        again = load_stacked(tmp_path / "out").model
        torch.testing.assert_close(again(ids).logits, expected, rtol=0, atol=1e-5)


def test_file_is_parsed_once_per_load(tmp_path, monkeypatch):
    write(tiny_base("llama"), tmp_path / "tiny.gguf")
    parsed = []

    class Counting(gguf.GGUFReader):
        def __init__(self, path):
            parsed.append(path)
            super().__init__(path)

    monkeypatch.setattr(gguf, "GGUFReader", Counting)
    for count in (1, 2):
        load_base(tmp_path / "tiny.gguf")
        assert len(parsed) == count and gguf.GGUFReader is Counting


def test_files_and_known_names_load_like_folders(tmp_path, monkeypatch):
    model = tiny_base("llama")
    write(model, tmp_path / "tiny.gguf")
    with pytest.raises(UserError, match="has no tokenizer"):
        load_causal_lm(tmp_path / "tiny.gguf")
    asked = []

    def from_package(source):
        asked.append(str(source))
        return Base(model, "its tokenizer", "llama", "float32")

    monkeypatch.setattr("nestling.models.foreign.load_base", from_package)
    found, tokenizer = load_causal_lm(Path("smollm2-135m-instruct"))
    assert found is model and tokenizer == "its tokenizer" and not found.training
    assert asked == ["smollm2-135m-instruct"]
    assert lies_outside("x.gguf") and not lies_outside("runs/hope")
