"""Readers of small models of ours and of transformers, for tests."""

import torch
from tiny_training import tiny_model
from transformers import LlamaConfig, LlamaForCausalLM

from nestling.data import byte_tokenizer
from nestling.evals import Reader

OURS = ("hope-tiny", "transformer-tiny", "hope-attention-tiny")
KINDS = (*OURS, "llama")
TEXT = "Whoever reads on writes on: a memory is what reading leaves."


def sharpened(model):
    """Larger head weights, so that predictions depend on the context."""
    torch.manual_seed(1)
    torch.nn.init.normal_(model.get_output_embeddings().weight)
    return model.eval()


def llama(positions=256):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=258, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=positions, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def reader(kind, segment=7):
    model = llama() if kind == "llama" else tiny_model(kind)
    return Reader(sharpened(model), byte_tokenizer(), name=kind, segment=segment)


def ids_of(found, text=TEXT):
    return found.start + found.encode(text)
