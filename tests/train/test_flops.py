"""Operations of a training step."""

import os

import pytest
from tiny_training import tiny_model

from nestling.core.native import SWITCH
from nestling.train.flops import flops_per_token


def test_transformer_flops_are_six_per_weight_plus_attention():
    model = tiny_model("transformer-tiny", window=None)
    found = flops_per_token(model, length=128)
    matrices = sum(p.numel() for p in model.parameters() if p.ndim == 2)
    # the embedding is a look-up unless it is also the head
    tied = model.get_input_embeddings().weight is model.get_output_embeddings().weight
    used = matrices - (0 if tied else model.get_input_embeddings().weight.numel())
    # two products with every key, and twice that (plus the scores) backward
    attention = 128 * 32 * (2 * 2 + 2 * 5)
    assert found == pytest.approx(6 * used + attention, rel=0.02)


@pytest.mark.parametrize("name", ["hope-tiny", "hope-attention-tiny"])
def test_counting_leaves_no_gradients_and_restores_the_switch(name, monkeypatch):
    monkeypatch.setenv(SWITCH, "1")
    model = tiny_model(name)
    dense = 6 * sum(p.numel() for p in model.parameters() if p.ndim == 2)
    assert flops_per_token(model, length=64) > 0.5 * dense
    assert all(p.grad is None for p in model.parameters()) and os.environ[SWITCH] == "1"
