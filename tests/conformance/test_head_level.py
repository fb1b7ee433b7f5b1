"""Conformance of models of every family with a head level (`head_period`)."""

import pytest
import torch
from tolerances import assert_close

from nestling.models import HopeForCausalLM, MemoryCache, create
from nestling.models.decode import read
from nestling.models.presets import FAMILIES

PERIOD, LENGTH = 4, 22
OPTIONS = {"vocab_size": 64, "num_hidden_layers": 1, "hidden_size": 64, "num_heads": 2}
# widths that depend on the preset's width
WIDE = {"hidden_size": 256, "num_heads": 4}
# a name may be followed by the kind of keys and the number of slots
FEW = pytest.mark.parametrize("name", ["hope-tiny", "mamba2-tiny context", "hope-tiny hidden 6"])
SLOTS = ["transformer-tiny hidden 6", "mamba2-tiny context 6"]
TINY = [*(f"{family}-tiny" for family in FAMILIES), "hope-tiny context", *SLOTS]
every_tiny = pytest.mark.parametrize("name", TINY)


def levelled(name: str, **overrides) -> HopeForCausalLM:
    """One layer, and a head written every few tokens with doubled strength."""
    name, *given = name.split()
    options = {"head_period": PERIOD, **dict(zip(("head_keys", "head_slots"), given, strict=False))}
    if "head_slots" in options:
        options["head_slots"] = int(options["head_slots"])
    model = create(name, **OPTIONS | WIDE | options | overrides)
    with torch.no_grad():
        model.head_level.read_strength.fill_(2.0)
    return model


def text(batch: int, length: int) -> torch.Tensor:
    return torch.randint(64, (batch, length), generator=torch.Generator().manual_seed(1))


def in_pieces(model: HopeForCausalLM, ids: torch.Tensor, cuts: list[int]) -> torch.Tensor:
    cache, outputs = None, []
    for piece in ids.split(cuts, dim=1):
        out = model(piece, past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        outputs.append(out.logits)
    return torch.cat(outputs, 1)


@every_tiny
@torch.no_grad()
def test_streaming_in_any_split_equals_the_full_forward(name):
    model, ids = levelled(name), text(2, LENGTH)
    whole = model(ids).logits
    assert_close(in_pieces(model, ids, [5, 1, 1, 1, 1, 4, 2, LENGTH - 15]), whole)
    # the head has learned something
    model.head_level.read_strength.fill_(0.0)
    assert not torch.allclose(whole, model(ids).logits, atol=1e-2)


@every_tiny
@torch.no_grad()
def test_causality_is_bitwise(name):
    model, ids = levelled(name), text(2, LENGTH)
    other = ids.clone()
    # the token that ends a period belongs to the write, its successor does not
    other[0, 13:], other[1, 16:] = (other[0, 13:] + 7) % 64, (other[1, 16:] + 7) % 64
    one, two = model(ids).logits, model(other).logits
    for row, known in enumerate((13, 16)):
        assert torch.equal(one[row, :known], two[row, :known])
        assert not torch.allclose(one[row, known:], two[row, known:])
        assert_close(model(ids[row : row + 1]).logits, one[row : row + 1])


@every_tiny
@torch.no_grad()
def test_packed_documents_equal_separate_ones(name):
    model, ids = levelled(name), text(1, LENGTH)
    ends = [0, 9, 15, LENGTH]
    apart = [model(ids[:, a:b]).logits for a, b in zip(ends[:-1], ends[1:], strict=True)]
    packed = model(ids, cu_seqlens=torch.tensor(ends)).logits
    assert_close(packed, torch.cat(apart, 1))
    # the same with a document start in a separate call, and masked positions
    reset = torch.zeros_like(ids, dtype=torch.bool)
    reset[:, [9, 15]] = True
    wide = torch.zeros(1, LENGTH + 4, dtype=torch.long)
    mask, begins = torch.zeros_like(wide), torch.zeros_like(wide, dtype=torch.bool)
    places = torch.tensor([i + (i > 2) + 2 * (i > 10) + (i > 15) for i in range(LENGTH)])
    wide[:, places], mask[:, places], begins[:, places] = ids, 1, reset
    cache, found = model.new_cache(), []
    for part in (slice(0, 11), slice(11, LENGTH + 4)):
        out = model(
            wide[:, part], mask[:, part], reset=begins[:, part], past_key_values=cache,
            use_cache=True,
        )  # fmt: skip
        found.append(out.logits)
    assert_close(torch.cat(found, 1)[:, places], packed)


@every_tiny
def test_generation_from_padded_prompts_matches_full_forward(name):
    model, ids, lengths = levelled(name), text(2, 9), (9, 6)
    mask = torch.ones_like(ids)
    mask[1, : 9 - lengths[1]] = 0
    options = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    out = model.generate(ids, attention_mask=mask, **options)
    for row, length in zip(out, lengths, strict=True):
        alone = row[None, 9 - length :]
        with torch.no_grad():
            logits = model(alone).logits[0, length - 1 : -1]
        chosen = logits.gather(1, alone[0, length:, None])[:, 0]
        assert (logits.amax(1) - chosen < 1e-4).all()


@FEW
@torch.no_grad()
def test_token_by_token_and_segments_equal_the_whole(name):
    model, ids = levelled(name), text(2, 80)
    whole = model(ids).logits
    assert_close(in_pieces(model, ids, [1] * 80), whole)
    for segment in (9, 80):
        assert_close(read(model, ids, segment=segment)[0], whole[:, -1])
    assert_close(model(ids, logits_to_keep=3).logits, whole[:, -3:])
    assert_close(model(ids, logits_to_keep=torch.tensor([4, 70])).logits, whole[:, [4, 70]])


@FEW
@torch.no_grad()
def test_cache_reorders_repeats_and_saves(name, tmp_path):
    model, ids = levelled(name), text(3, LENGTH)
    whole = model(ids).logits
    cache = model(ids[:, :10], use_cache=True).past_key_values
    kept = MemoryCache.load(cache.save(tmp_path / "memory"), model)
    assert torch.equal(
        model(ids[:, 10:], past_key_values=kept).logits,
        model(ids[:, 10:], past_key_values=cache.fork()).logits,
    )
    cache.reorder_cache(torch.tensor([2, 0]))
    cache.batch_repeat_interleave(2)
    rows = torch.tensor([2, 2, 0, 0])
    assert_close(model(ids[rows, 10:], past_key_values=cache).logits, whole[rows, 10:])


@FEW
def test_beams_keep_their_own_memory(name):
    model, ids = levelled(name), text(1, 7)
    out = model.generate(
        ids, attention_mask=torch.ones_like(ids),  # a token may be the padding token
        num_beams=3, num_return_sequences=3, max_new_tokens=9, do_sample=False,
        return_dict_in_generate=True, output_scores=True, pad_token_id=0, length_penalty=0.0,
    )  # fmt: skip
    with torch.no_grad():
        scores = model(out.sequences).logits.log_softmax(-1)[:, 6:-1]
    total = scores.gather(2, out.sequences[:, 7:, None]).sum((1, 2))
    torch.testing.assert_close(total, out.sequences_scores, rtol=1e-4, atol=1e-4)


@FEW
def test_save_and_load_with_and_without_head_level(name, tmp_path):
    model, ids = levelled(name), text(2, LENGTH)
    model.save_pretrained(tmp_path)
    loaded = HopeForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(loaded(ids).logits, model(ids).logits)
    half = HopeForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert half.head_level.read_strength.dtype == torch.float32
    assert half(ids).logits.dtype == torch.bfloat16
    assert create(name.split()[0], **OPTIONS | WIDE).head_level is None
