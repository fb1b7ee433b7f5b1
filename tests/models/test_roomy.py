"""A cache with spare room: equal to transformers' cache, without copies."""

import pytest
import torch
from tiny_bases import tiny_base
from transformers.cache_utils import DynamicCache

from nestling.models import roomy as room
from nestling.models.held import Held
from nestling.models.roomy import RoomyLayer, roomy

IDS = torch.arange(40)[None] % 100


@torch.no_grad()
def call(model, ids, cache):
    return model(input_ids=ids, past_key_values=cache, use_cache=True).logits


def contents(cache):
    return [x.clone() for layer in cache.layers for x in (layer.keys, layer.values)]


@pytest.mark.parametrize("spare", [0, 3, 256])
def test_matches_the_original_cache(spare, monkeypatch):
    monkeypatch.setattr(room, "ROOM", spare)
    model = tiny_base("llama").eval()
    plain, own = DynamicCache(config=model.config), DynamicCache(config=model.config)
    call(model, IDS[:, :20], plain)
    call(model, IDS[:, :20], own)
    own = roomy(own)
    assert all(type(layer) is RoomyLayer for layer in own.layers)
    for begin, end in ((20, 21), (21, 22), (22, 30), (30, 40)):
        wanted = call(model, IDS[:, begin:end], plain)
        torch.testing.assert_close(call(model, IDS[:, begin:end], own), wanted)
    for one, other in zip(contents(own), contents(plain), strict=True):
        torch.testing.assert_close(one, other)


def fork(cache):
    return Held(IDS[:, :0], cache).fork().kept


def test_appends_in_place_and_forks_are_independent():
    model = tiny_base("llama").eval()
    cache = DynamicCache(config=model.config)
    call(model, IDS[:, :20], cache)
    cache = roomy(cache)
    call(model, IDS[:, 20:21], cache)
    place, kept = cache.layers[0].keys.data_ptr(), contents(cache)
    first, second = fork(cache), fork(cache)
    assert first.layers[0].keys.data_ptr() == place
    own = call(model, IDS[:, 21:22], first), call(model, IDS[:, 21:22], cache)
    call(model, IDS[:, 30:31], second)
    torch.testing.assert_close(*own)
    assert cache.layers[0].keys.data_ptr() == place != first.layers[0].keys.data_ptr()
    for now, before in zip(contents(cache), kept, strict=True):
        assert torch.equal(now[..., :21, :], before)
    # cropping and continuing differently does not affect caches that share the buffer
    shared = fork(cache)
    before = contents(shared)
    cache.crop(-3)
    call(model, IDS[:, 35:38], cache)
    assert all(map(torch.equal, contents(shared), before))
    cache.batch_repeat_interleave(2)
    call(model, IDS[:, 35:36].repeat(2, 1), cache)
    assert cache.layers[0].keys.shape[0] == 2 and cache.get_seq_length() == 23


def test_other_caches_are_returned_unchanged():
    cache = object()
    assert roomy(cache) is cache
