"""The cache as a value: streamed, forked, detached, saved, loaded, reordered."""

import pytest
import torch
from small_models import small
from tolerances import assert_close
from transformers import DynamicCache

from nestling.core.error import UserError
from nestling.models import MemoryCache
from nestling.models.cache import together
from nestling.models.decode import read, write_on


def after(model, text: torch.Tensor) -> MemoryCache:
    return model(text, use_cache=True).past_key_values


def test_any_split_equals_the_whole(model, ids):
    whole = model(ids).logits
    for cuts in ([1] * 37, [5, 1, 0, 20, 11], [36, 1]):
        cache, outputs = None, []
        for piece in ids.split(cuts, dim=1):
            out = model(piece, past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            outputs.append(out.logits)
        assert_close(torch.cat(outputs, 1), whole)
        assert cache.get_seq_length() == 37


def test_fork_is_independent(model, ids):
    cache = after(model, ids[:, :12])
    fork = cache.fork()
    model(ids[:, :9], past_key_values=fork, use_cache=True)
    assert (cache.columns, fork.columns) == (12, 21)
    out = model(ids[:, 12:], past_key_values=cache)
    assert_close(out.logits, model(ids).logits[:, 12:])


def test_saved_memory_continues_identically(model, ids, tmp_path):
    cache = after(model, ids[:, :13])
    file = cache.save(tmp_path / "deep" / "memory.safetensors")
    loaded = MemoryCache.load(file, model)
    assert (loaded.columns, loaded.tokens.tolist()) == (13, [13] * 3)
    out = [model(ids[:, 13:], past_key_values=c).logits for c in (cache, loaded)]
    assert torch.equal(*out)
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_unreadable_memory_is_refused_in_one_line(hope, ids, tmp_path):
    file = after(hope, ids).save(tmp_path / "memory")
    content = file.read_bytes()
    for name, damaged in (("cut", content[: len(content) // 2]), ("empty", b"")):
        (tmp_path / name).write_bytes(damaged)
        with pytest.raises(UserError, match="truncated"):
            MemoryCache.load(tmp_path / name, hope)
    with pytest.raises(UserError, match="cannot read"):
        MemoryCache.load(tmp_path / "nowhere", hope)
    with pytest.raises(UserError, match="another architecture: memories"):
        MemoryCache.load(file, small("hope", **{"self_titans.period": 16}))
    hope.save_pretrained(tmp_path / "model")
    with pytest.raises(UserError, match="no saved memory|not a saved memory"):
        MemoryCache.load(tmp_path / "model" / "model.safetensors", hope)
    with pytest.raises(UserError, match="empty"):
        hope.new_cache().save(tmp_path / "none")


def test_reorder_repeat_and_select_rows(model, ids):
    whole = model(ids).logits[:, 12:]
    cache = after(model, ids[:, :12])
    order = torch.tensor([2, 2, 0])
    moved = cache.fork()
    moved.reorder_cache(order)
    assert_close(model(ids[order, 12:], past_key_values=moved).logits, whole[order])
    wide = cache.fork()
    wide.batch_repeat_interleave(2)
    twice = ids.repeat_interleave(2, 0)[:, 12:]
    assert_close(model(twice, past_key_values=wide).logits, whole.repeat_interleave(2, 0))
    one = cache.fork()
    one.batch_select_indices(torch.tensor([1]))
    assert_close(model(ids[1:2, 12:], past_key_values=one).logits, whole[1:2])


def test_separately_read_rows_can_be_joined(model, ids):
    """Also if one row has dropped more positions than another."""
    reset = torch.zeros(3, 37, dtype=torch.bool)
    reset[0, 8] = True
    whole = model(ids, reset=reset).logits[:, 12:]
    parts = [
        model(ids[rows, :12], reset=reset[rows, :12], use_cache=True).past_key_values
        for rows in (slice(0, 1), slice(1, 3))
    ]
    cache = together(parts)
    assert (cache.columns, cache.tokens.tolist()) == (12, [12] * 3)
    assert_close(model(ids[:, 12:], past_key_values=cache).logits, whole)


def test_detach_cuts_only_the_gradient(hope, ids):
    cache = after(hope, ids[:, :12])
    leaf = hope.backbone.embed_tokens.weight
    rest = ids[:, 12:]
    through = hope(rest, past_key_values=cache.fork())
    cut = hope(rest, past_key_values=cache.detach())
    assert torch.equal(through.logits, cut.logits)
    first, second = (
        torch.autograd.grad(out.logits.square().sum(), leaf)[0] for out in (through, cut)
    )
    assert not torch.allclose(first, second)


def test_unsupported_operations_are_refused(hope, ids):
    cache = after(hope, ids)
    assert not cache.is_compileable and not cache.is_croppable
    with pytest.raises(UserError, match="fork"):
        cache.crop(1)
    with pytest.raises(UserError, match="3 rows and the batch 2"):
        hope(ids[:2], past_key_values=cache)
    with pytest.raises(UserError, match="DynamicCache"):
        hope(ids, past_key_values=DynamicCache())


def test_reset_memory_is_fresh(model, ids):
    cache = after(model, ids)
    cache.reset()
    assert cache.get_seq_length() == 0
    assert_close(model(ids, past_key_values=cache).logits, model(ids).logits)


def test_long_text_is_read_in_segments_and_continued(model, ids):
    logits, cache = read(model, ids, segment=10)
    assert_close(logits, model(ids).logits[:, -1])
    whole = model.generate(ids, max_new_tokens=6, do_sample=False, attention_mask=ids * 0 + 1)
    _, cache = read(model, ids[:, :-2], segment=10)
    more = write_on(model, ids[:, -2:], cache, max_new_tokens=6, do_sample=False)
    assert torch.equal(more[:, 2:], whole[:, 37:])
    with pytest.raises(ValueError, match="no tokens to read"):
        read(model, ids[:, :0])
