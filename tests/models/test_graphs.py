"""Replayed steps match the model, one token at a time."""

import pytest
import torch
from small_models import small

from nestling.core.error import UserError
from nestling.core.memory import map_state
from nestling.models import create
from nestling.models.decode import read
from nestling.models.graphs import Replay
from nestling_lab.bench.gate import relative

FAMILIES = ("hope", "gated-delta-net", "mamba2", "rwkv7")
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def made(family):
    if family == "hope":
        return small(family)
    options = {"vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 2, "num_heads": 2}
    return create(f"{family}-tiny", **options)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("family", FAMILIES)
def test_replayed_steps_match_the_model(family, device):
    model = made(family).to(device)
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(97, (2, 30), generator=generator).to(device)
    _, cache = read(model, ids[:, :11])
    kept = map_state(torch.clone, cache.states)
    replay, own = Replay(model, cache), cache.fork()
    for token in ids[:, 11:].split(1, dim=1):
        with torch.no_grad():
            want = model(token, past_key_values=own, use_cache=True).logits[:, -1]
        assert relative(replay(token), want) < 1e-5
    tensors = []
    map_state(tensors.append, (kept, cache.states))
    half = len(tensors) // 2
    assert half and all(map(torch.equal, tensors[:half], tensors[half:]))


def test_growing_states_are_refused():
    model = small("transformer")
    _, cache = read(model, torch.zeros(1, 3, dtype=torch.long))
    replay = Replay(model, cache)
    with pytest.raises(UserError, match="grow"):
        replay(torch.zeros(1, 1, dtype=torch.long))


def test_an_empty_cache_is_refused():
    model = small("hope")
    with pytest.raises(UserError, match="read a prompt"):
        Replay(model, model.new_cache())
