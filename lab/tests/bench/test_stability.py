"""Rounding differences along a text: what is measured, and the bounds of the presets."""

import math

import pytest
import torch
from tiny_training import tiny_model
from transformers.modeling_outputs import CausalLMOutputWithPast

from nestling.core.error import UserError
from nestling.models import create
from nestling_lab.bench.stability import exponent, split_errors


def ids_of(length: int, words: int = 64) -> torch.Tensor:
    return torch.randint(words, (1, length), generator=torch.Generator().manual_seed(0))


def test_error_is_over_the_last_positions():
    model, ids = tiny_model("hope-tiny"), ids_of(300)
    found = split_errors(model, ids, (40, 300), piece=7)
    assert set(found) == {40, 300} and all(0 < error < 1e-4 for error in found.values())
    cache, parts = model.new_cache(), []
    with torch.no_grad():
        whole = model(ids).logits[0, 44:]
        for part in ids.split(7, 1):
            parts.append(model(part, past_key_values=cache, use_cache=True).logits[0])
    difference = torch.cat(parts)[44:] - whole
    spread = (whole - whole.mean(-1, keepdim=True)).square().mean().sqrt()
    assert found[300] == pytest.approx(float(difference.square().mean().sqrt() / spread), rel=0.05)


@pytest.mark.parametrize("factor", [0.99, 1.0, 1.01])
def test_exponent_recovers_known_growth(factor, monkeypatch):
    """A state multiplied by a constant at every token."""
    model = tiny_model("transformer-tiny")

    def forward(ids, past_key_values=None, use_cache=True):
        cache = model.new_cache() if past_key_values is None else past_key_values
        state = torch.ones(1, 3, dtype=torch.float64) if cache.states is None else cache.states[0]
        state = state * factor ** ids.shape[1]
        cache.advance([state], ids.shape[1], torch.tensor([ids.shape[1]]))
        return CausalLMOutputWithPast(past_key_values=cache)

    monkeypatch.setattr(model, "forward", forward)
    found = exponent(model, ids_of(32 * 12))
    assert found == pytest.approx(32 * math.log(factor), abs=1e-3)


def test_too_short_texts_are_refused():
    model = tiny_model("hope-tiny")
    with pytest.raises(UserError, match="lengths"):
        split_errors(model, ids_of(10), (20,))
    with pytest.raises(UserError, match="at least"):
        exponent(model, ids_of(40))


SIZE = {"vocab_size": 64, "hidden_size": 64, "num_hidden_layers": 1, "num_heads": 2}


@pytest.mark.parametrize("name", ["hope-tiny", "gated-delta-net-tiny", "mamba2-tiny"])
@pytest.mark.parametrize("head", [None, 32])
def test_presets_do_not_depend_on_call_size(name, head):
    model = create(name, **SIZE, head_period=head)
    errors = split_errors(model, ids_of(1024), (512, 1024))
    assert all(error < 1e-5 for error in errors.values())


def test_clipped_projections_damp_rounding_errors():
    """With the same weights, nearby states converge with the clip and diverge without it."""
    found = {}
    for clip in (0.25, None):
        model = create("hope-tiny", **SIZE, **{"self_titans.projection_clip": clip})
        found[clip] = exponent(model.double(), ids_of(1024))
    assert found[0.25] < -0.01 < 0.03 < found[None]
    assert create("hope-tiny", **SIZE).config.memories["self_titans"]["projection_clip"] == 0.25
