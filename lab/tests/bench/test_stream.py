"""Streaming through a model: what is counted; nothing accumulates."""

import math
import mmap

import pytest
import torch
from tiny_training import tiny_model, tiny_text

from nestling.core.error import UserError
from nestling_lab.bench import stream
from nestling_lab.bench.stream import pieces, resident_mib


def test_stream_is_in_order_and_wraps_around():
    held_out, train = tiny_text(2), tiny_text(3)
    both = torch.cat([held_out.ids, train.ids]).long()
    total = 2 * len(both) + 5
    found = torch.cat(list(pieces([held_out, train], 16, total)), dim=1)[0]
    assert torch.equal(found, both.repeat(3)[:total])


@pytest.mark.parametrize("name", ["hope-tiny", "transformer-tiny"])
@pytest.mark.parametrize("chunk", [7, 64])
def test_streamed_loss_equals_one_call(name, chunk):
    model, text = tiny_model(name), tiny_text(4)
    found = stream(model, [text], tokens=150, chunk=chunk, quiet=True)
    ids = text.ids[:150].long()[None]
    with torch.no_grad():
        logits = model(ids).logits
    expected = torch.nn.functional.cross_entropy(logits[0, :-1], ids[0, 1:])
    assert found["loss"] == pytest.approx(float(expected), rel=1e-5)
    assert found["non_finite"] == 0 and found["tokens"] == 150
    assert math.isfinite(found["max_state_norm"]) and found["max_state_norm"] > 0


def test_stable_memory_has_bounded_norm():
    found = stream(tiny_model("hope-tiny"), [tiny_text()], tokens=2000, chunk=256, quiet=True)
    assert found["last_state_norm"] < 2 * found["first_state_norm"]
    assert found["max_state_norm"] == max(found["state_norms"].values())


def test_nonfinite_losses_are_counted():
    model = tiny_model("hope-tiny")
    model.lm_head.register_forward_hook(lambda m, i, out: out * float("nan"))
    found = stream(model, [tiny_text()], tokens=100, chunk=50, quiet=True)
    assert found["non_finite"] == 100 * model.config.vocab_size


def test_memory_use_is_measured():
    # its own allocation, since torch may reuse freed memory
    kept = mmap.mmap(-1, 32 * 2**20)
    before = resident_mib()
    for place in range(0, len(kept), 4096):
        kept[place] = 1
    assert 16 < resident_mib() - before < 64


@pytest.mark.parametrize(("tokens", "chunk"), [(1, 8), (8, 0)])
def test_too_short_text_is_refused(tokens, chunk):
    with pytest.raises(UserError):
        stream(tiny_model("transformer-tiny"), [tiny_text()], tokens=tokens, chunk=chunk)
