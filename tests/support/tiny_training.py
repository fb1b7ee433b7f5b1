"""A model and a text small enough to train in a second."""

from nestling.data import byte_tokenizer, encode
from nestling.models import create
from nestling.train import TrainConfig

SIZE = {"hidden_size": 32, "num_hidden_layers": 1, "num_heads": 2}
FAMILIES = {
    "transformer-tiny": {"intermediate_size": 64, "num_kv_heads": 2, "window": 48},
    "hope-attention-tiny": {"intermediate_size": 32, "num_kv_heads": 2, "periods": [32, 128]},
    "hope-tiny": {"intermediate_size": 32, "periods": [64, 256]},
    "mamba2-tiny": {},
}


def tiny_model(name="hope-attention-tiny", seed=0, **overrides):
    tokens = len(byte_tokenizer())
    return create(name, vocab_size=tokens, seed=seed, **SIZE | FAMILIES[name] | overrides)


def tiny_text(count=30):
    """Documents of a counting language, some longer than a batch's rows."""
    texts = [f"{i} and {i + 1} " * (3 + i % 17) for i in range(count)]
    return encode(texts, byte_tokenizer())


def tiny_config(**settings):
    shape = {"steps": 8, "batch_size": 4, "sequence_length": 64, "save_every": 0}
    return TrainConfig(**shape | settings)
