"""A sequence divided among processes has the outputs, memory and gradients of one process."""

import pytest
from sequence_ranks import errors
from training_ranks import stage

from nestling.core.error import UserError
from nestling.models import create
from nestling.train.sequence import check, shared

KINDS = [
    {"model": "hope-tiny", "dtype": "float64"},
    {"model": "hope-tiny", "dtype": "float32", "checkpointing": True},
    {"model": "mamba2-tiny", "dtype": "float64"},
    {"model": "mamba2-tiny", "dtype": "float32"},
    {"model": "gated-delta-net-tiny", "dtype": "float64"},
    {"model": "sliding-window-tiny", "dtype": "float64", "options": {"window": 24}},
]
BOUND = {"float64": 1e-9, "float32": 1e-5}


def test_sequence_parallel_equals_the_whole(tmp_path):
    """Documents start within segments and at a border; a second call continues."""
    for found in stage(tmp_path, 2, KINDS, errors):
        for kind, worst in zip(KINDS, found, strict=True):
            bound = BOUND[kind["dtype"]]
            assert worst.pop("parts") > 5
            assert all(error < bound for error in worst.values()), (kind, worst)


def refused(name, **overrides):
    size = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 1, "num_heads": 2}
    with pytest.raises(UserError) as error:
        check(create(name, **size | overrides))
    return str(error.value)


def test_unsupported_memories_are_refused_with_a_reason():
    assert "attention keeps all earlier positions" in refused("transformer-tiny")
    assert "ada_transformer keeps all earlier positions" in refused("ada-transformer-tiny")
    assert "truncate, which counts tokens" in refused("mamba2-tiny", truncate=16)
    assert "a head that is a level" in refused("mamba2-tiny", head_period=16)
    with pytest.raises(UserError, match="65 tokens cannot be shared by 2 processes"):
        shared(65, 2)
