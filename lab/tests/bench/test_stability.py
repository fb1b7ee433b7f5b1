"""Differences of rounding along a text: what is measured, and what the presets keep to."""

import math

import pytest
import torch
from tiny_training import tiny_model

from nestling.core.error import UserError
from nestling_lab.bench.stability import exponent, split_errors

LMM = {"hidden_size": 32, "num_hidden_layers": 1, "num_heads": 2, "vocab_size": 64}


def ids_of(length: int, words: int = 64) -> torch.Tensor:
    return torch.randint(words, (1, length), generator=torch.Generator().manual_seed(0))


def test_the_error_is_that_of_the_last_positions():
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


class Growing(torch.nn.Module):
    """A model whose state is multiplied by a number at every token."""

    def __init__(self, model, factor: float):
        super().__init__()
        self.model, self.factor = model, factor

    def forward(self, ids, past_key_values=None, use_cache=True):
        cache = self.model.new_cache() if past_key_values is None else past_key_values
        state = torch.ones(1, 3, dtype=torch.float64) if cache.states is None else cache.states[0]
        states = [state * self.factor ** ids.shape[1]]
        cache.advance(states, ids.shape[1], torch.tensor([ids.shape[1]]))
        return type("Out", (), {"past_key_values": cache})()


@pytest.mark.parametrize("factor", [0.99, 1.0, 1.01])
def test_the_exponent_is_known_where_growth_is(factor):
    model = Growing(tiny_model("transformer-tiny"), factor)
    found = exponent(model, ids_of(32 * 12))
    assert found == pytest.approx(32 * math.log(factor), abs=1e-3)


def test_too_short_texts_are_refused():
    model = tiny_model("hope-tiny")
    with pytest.raises(UserError, match="lengths"):
        split_errors(model, ids_of(10), (20,))
    with pytest.raises(UserError, match="at least"):
        exponent(model, ids_of(40))
