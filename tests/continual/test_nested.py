"""Nested levels on the incoming stream (regime R3): reset when a slower level is written."""

import pytest
import torch
from learner_states import equal
from tiny_bases import VOCABULARY

from nestling.continual import Options
from nestling.continual.file import FORMAT, PLAIN, read_memory
from nestling.continual.memory import fork, merge
from nestling.core.error import UserError
from nestling.models import create
from nestling.models.pretrained import (
    load_base,
    load_stacked,
    parse_levels,
    save_stacked,
    stack_model,
)

SHARE = 0.25
NESTED = f"8:1e-2:adam:{SHARE},32:1e-2:momentum"
THREE = f"4:1e-2:gradient:0,8:1e-2:adam:{SHARE},32:1e-2:momentum"
PLAIN_TWO = "8:1e-2:adam,32:1e-2:momentum"
only_llama = pytest.mark.parametrize("kind", ["llama"])


def weights(learner, index):
    """The weights of a level, one row."""
    now = learner.weights()
    return [now[name] for name in learner.parameters[index]]


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def unreset(learner, levels, make):
    """A learner in the same state whose levels are never reset."""
    twin = make(levels)
    twin.state = learner.state._replace(
        levels=tuple(level._replace(begin=()) for level in learner.state.levels)
    )
    return twin


@pytest.mark.parametrize(
    ("kind", "nested", "plain", "ends"),
    [
        ("llama", NESTED, PLAIN_TWO, {1: (32, SHARE)}),
        ("hope", NESTED, PLAIN_TWO, {1: (32, SHARE)}),
        (
            "llama",
            THREE,
            "4:1e-2:gradient,8:1e-2:adam,32:1e-2:momentum",
            {1: (32, SHARE), 2: (8, 0.0)},
        ),
    ],
)
def test_level_resets_when_the_next_slower_is_written(new_learner, ids, nested, plain, ends):
    """Token by token: only at multiples of that period, to the specified value, after its write."""
    learner = new_learner(nested)
    resets = dict.fromkeys(ends, 0)
    for count, token in enumerate(ids[:72], start=1):
        twin = unreset(learner, plain, new_learner)
        before = learner.state.levels
        for one in (learner, twin):
            one.read_tokens([token], begins=count == 1)
        for index, free in enumerate(twin.state.levels):
            own = learner.state.levels[index]
            period, share = ends.get(index, (0, 0.0))
            if not period or count % period:
                assert same(own.moved, free.moved) and same(own.begin, before[index].begin)
                assert int(own.writes) == int(free.writes)
                continue
            resets[index] += 1
            old = before[index].begin
            for begin, moved, start, went in zip(
                own.begin, own.moved, old, free.moved, strict=True
            ):
                torch.testing.assert_close(begin, start + share * (went - start))
                assert torch.equal(moved, begin)
            assert int(own.writes) == 0 and int(own.seen) == count
            assert not any(x.any() for group in own.buffers for x in group)
            assert not any(x.any() for x in own.total)
    assert resets == {index: 72 // period for index, (period, _) in ends.items()}


def test_share_zero_restores_base_and_share_one_clears_moments_only(new_learner, ids):
    base, zero, one, never = (
        new_learner(f"8:1e-2:gradient{share},32:1e-2:gradient") for share in (":0", ":0", ":1", "")
    )
    for learner in (zero, one, never):
        assert learner.read_tokens(ids[:64]).writes == (2, 8)
    assert same(weights(zero, 1), weights(base, 1))
    assert not same(weights(zero, 0), weights(base, 0))
    assert same(weights(one, 1), weights(never, 1)) and same(weights(one, 0), weights(never, 0))


@pytest.mark.parametrize("pieces", [(1,) * 72, (3, 5, 30, 34)])
def test_any_split_equals_the_whole(new_learner, ids, pieces):
    whole, parts = new_learner(NESTED), new_learner(NESTED)
    whole.read_tokens(ids[:72])
    first = 0
    for size in pieces:
        parts.read_tokens(ids[first : first + size], begins=first == 0)
        first += size
    assert equal(whole, parts) and whole.state.levels[1].begin[0].any()


@pytest.mark.parametrize(
    "at", [pytest.param(5, marks=pytest.mark.slow), pytest.param(32, marks=pytest.mark.slow), 77]
)
def test_save_load_and_fork_are_bitwise(new_learner, ids, tmp_path, at):
    whole, first, then = new_learner(NESTED), new_learner(NESTED), new_learner(NESTED)
    whole.read_tokens(ids[:at])
    first.read_tokens(ids[:at])
    then.load(first.save(tmp_path / "memory"))
    twin = first.fork()
    for learner in (then, twin):
        learner.read_tokens(ids[at:100], begins=False)
    assert equal(first, whole)
    whole.read_tokens(ids[at:100], begins=False)
    assert equal(then, whole) and equal(twin, whole)


def test_at_learning_rate_zero_the_model_is_the_base(new_learner, ids):
    learner = new_learner(f"8:0:adam:{SHARE},32:0:momentum")
    assert sum(learner.read_tokens(ids[:72]).writes) == 2 + 9
    own = dict(learner.reader.model.named_parameters())
    assert all(torch.equal(value, own[name]) for name, value in learner.weights().items())


@only_llama
def test_finish_writes_the_slower_level_and_resets(new_learner, ids):
    learner, plain = new_learner(NESTED), new_learner(PLAIN_TWO)
    for one in (learner, plain):
        one.read_tokens(ids[:13])
        assert one.finish().writes == (1, 1)
    own, went = learner.state.levels[1], plain.state.levels[1].moved
    for begin, moved, far in zip(own.begin, own.moved, went, strict=True):
        torch.testing.assert_close(begin, SHARE * far)
        assert torch.equal(begin, moved)


@only_llama
def test_without_a_write_of_the_slower_level_nothing_is_reset(new_learner, ids):
    """With a surprise threshold that no token reaches, there is no write and no reset."""
    learner = new_learner(NESTED)
    learner.read_tokens(ids[:24])
    gated = new_learner(NESTED, options=Options(surprise=1e9))
    gated.state = learner.state
    before = weights(gated, 1)
    # the eight tokens before 32 write nothing; the twenty-four accumulated by the slow level do
    assert gated.read_tokens(ids[24:32], begins=False).writes == (1, 0)
    assert not same(weights(gated, 1), before)
    before = weights(gated, 1)
    assert gated.read_tokens(ids[32:64], begins=False).writes == (0, 0)
    assert same(weights(gated, 1), before)


@only_llama
def test_manual_reset_restores_the_original_start(new_learner, ids):
    learner = new_learner(NESTED)
    learner.read_tokens(ids[:40])
    learner.reset(1)
    assert same(weights(learner, 1), weights(new_learner(NESTED), 1))
    assert not any(x.any() for x in learner.state.levels[1].begin)


@only_llama
def test_small_and_merged_files_keep_level_starts(new_learner, ids, tmp_path):
    learner, other = new_learner(NESTED), new_learner(NESTED)
    learner.read_tokens(ids[:70])
    file = learner.save(tmp_path / "memory")
    assert fork(file, tmp_path / "small", "16bit").error < 1e-3
    other.load(tmp_path / "small")
    for one, two in zip(learner.state.levels[1].begin, other.state.levels[1].begin, strict=True):
        assert one.any() and (one - two).abs().max() <= one.abs().max() * 2.0**-10
    memory = read_memory(file)
    both = merge([memory, memory], [0.5, 1.0])
    names = [name for name in memory.tensors if ".begin." in name]
    assert len(names) == len(learner.parameters[1])
    for name in names:
        torch.testing.assert_close(both.tensors[name], 1.5 * memory.tensors[name])


@only_llama
def test_file_records_nested_levels(new_learner, tmp_path, folder):
    """Older versions refuse files with resets; plain files keep the old format."""
    nested, plain = new_learner(NESTED), new_learner(PLAIN_TWO)
    assert read_memory(nested.save(tmp_path / "nested")).about["format"] == FORMAT
    assert read_memory(plain.save(tmp_path / "plain")).about["format"] == PLAIN
    with pytest.raises(UserError, match=r"other levels \(32:0.01:momentum, 8:0.01:adam:0.25\)"):
        plain.load(tmp_path / "nested")
    with pytest.raises(UserError, match="other levels"):
        nested.load(tmp_path / "plain")
    levels = parse_levels(NESTED)
    save_stacked(load_base(folder), levels, "partition", tmp_path / "adapted")
    assert load_stacked(tmp_path / "adapted").levels == levels


@only_llama
@pytest.mark.parametrize(
    ("levels", "message"),
    [
        ("8:0.1:adam:2,32", "the share of a level is 2.0; give a fraction from 0 to 1"),
        ("8:0.1:adam:-0.1,32", "fraction"),
        ("8:0.1:adam:nan,32", "fraction"),
        ("8:0.1:adam:x,32", "cannot be read"),
        ("8:0.1:adam:0.1,32:0.1:adam:0.1", "32:0.1:adam:0.1 is the slowest that is written"),
        ("8:0.1:adam:0.1,inf", "slowest that is written"),
        ("8,inf:::0.1", "never written is never reset"),
    ],
)
def test_invalid_shares_are_refused(new_learner, levels, message):
    with pytest.raises(UserError, match=message) as caught:
        new_learner(levels)
    assert "\n" not in str(caught.value)


def test_a_model_with_nested_levels_reads_with_them():
    model = create(
        "hope-tiny",
        vocab_size=VOCABULARY,
        hidden_size=16,
        num_hidden_layers=1,
        num_heads=2,
        intermediate_size=16,
        periods=(8, 32, 64),
        shares=(SHARE, None),
    )
    assert [level.share for level in stack_model(model, None).levels] == [None, None, SHARE]
