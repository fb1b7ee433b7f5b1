"""A sequence divided among processes: outputs, memory and gradients of one process."""

import json

import pytest
from test_ranks import SUPPORT, run_python

from nestling.core.error import UserError
from nestling.models import create
from nestling.train.sequence import check

KINDS = [
    {"model": "hope-tiny", "dtype": "float64"},
    {"model": "hope-tiny", "dtype": "float32", "checkpointing": True},
    {"model": "mamba2-tiny", "dtype": "float64"},
    {"model": "mamba2-tiny", "dtype": "float32"},
    {"model": "gated-delta-net-tiny", "dtype": "float64"},
    {"model": "sliding-window-tiny", "dtype": "float64"},
]
BOUND = {"float64": 1e-9, "float32": 1e-5}


def test_a_divided_sequence_is_the_whole_one(tmp_path):
    """Documents begin inside of segments and at the border of two; a second call goes on."""
    run_python(SUPPORT / "sequence_ranks.py", tmp_path, 2, json.dumps(KINDS))
    for found in json.loads((tmp_path / "2.json").read_text()):
        for kind, worst in zip(KINDS, found, strict=True):
            bound = BOUND[kind["dtype"]]
            assert worst.pop("parts") > 5
            assert all(error < bound for error in worst.values()), (kind, worst)
