"""The command line that trains a model small enough for a test."""

SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_heads": 2,
    "intermediate_size": 32,
    "batch_size": 2,
    "sequence_length": 64,
    "evaluate_tokens": 200,
}


def train_arguments(out, *more, preset="hope-attention-tiny", **settings):
    """The command line that trains a small model; a setting of None leaves it out."""
    pairs = {name: value for name, value in (SMALL | settings).items() if value is not None}
    sets = [word for name, value in pairs.items() for word in ("--set", f"{name}={value}")]
    head = ["train", "--preset", preset, "--tokenizer", "bytes", "--out", str(out), "--quiet"]
    return [*head, *sets, *more]
