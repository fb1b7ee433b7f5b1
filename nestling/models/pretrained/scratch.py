"""A small Llama with random weights, to pretrain here."""

from typing import Any

import torch


def new_llama(
    *,
    vocab_size: int,
    hidden_size: int,
    intermediate_size: int,
    layers: int,
    heads: int,
    length: int,
    seed: int,
) -> Any:
    """A LlamaForCausalLM with random weights; torch's global generator is not touched.

    ``length`` is the longest context in tokens. The head is tied to the embedding.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(
            LlamaConfig(
                vocab_size=vocab_size,
                hidden_size=hidden_size,
                intermediate_size=intermediate_size,
                num_hidden_layers=layers,
                num_attention_heads=heads,
                num_key_value_heads=heads,
                max_position_embeddings=length,
                tie_word_embeddings=True,
                bos_token_id=0,
                eos_token_id=0,
            )
        )
