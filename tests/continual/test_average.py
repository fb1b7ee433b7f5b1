"""Running averages of the levels: slower levels without gradients."""

import pytest
import torch
from learner_states import equal, flat
from tiny_bases import tiny_base

from nestling.continual import ContinualLearner, Options
from nestling.continual.consolidate import Plan, consolidate
from nestling.continual.file import FORMAT, PLAIN, read_memory
from nestling.continual.memory import fork, merge
from nestling.continual.memory import reset as reset_file
from nestling.continual.methods import GradientMethod
from nestling.continual.opening import open_learner
from nestling.core.error import UserError
from nestling.data import byte_tokenizer
from nestling.models.pretrained import LevelSpec, load_base, parse_levels

KEPT = Options(averages=(16, 64))
NESTED = "8:1e-2:adam:0.25,32:1e-2:momentum"
only_llama = pytest.mark.parametrize("kind", ["llama"])


def moved(learner):
    """The movement of each level, without the row dimension."""
    return [[m[0] for m in level.moved] for level in learner.state.levels]


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(flat(one), flat(other), strict=True))


def test_averages_move_only_at_fastest_level_writes(new_learner, ids):
    """Against a token-by-token loop; averages do not change the levels."""
    learner, plain = new_learner(options=KEPT), new_learner()
    assert learner.spans == (64, 16)
    expected = [[[torch.zeros_like(m) for m in level] for level in moved(learner)] for _ in "ab"]
    for count, token in enumerate(ids[:72], start=1):
        before = learner.state.averages
        for one in (learner, plain):
            one.read_tokens([token], begins=count == 1)
        if count % 8:
            assert same(before, learner.state.averages)
            continue
        for span, average in zip((64, 16), expected, strict=True):
            for own, now in zip(average, moved(learner), strict=True):
                own[:] = [old + 8 / span * (new - old) for old, new in zip(own, now, strict=True)]
        found = flat(learner.state.averages)
        wanted = [x for average in expected for level in average for x in level]
        for a, b in zip(found, wanted, strict=True):
            torch.testing.assert_close(a, b)
    assert same(
        tuple(level.moved for level in learner.state.levels),
        tuple(level.moved for level in plain.state.levels),
    )


def test_averages_match_fine_tuning(models, ids):
    """One level of all weights under Adam is full fine-tuning, and so are its averages."""
    levels = (LevelSpec(period=8, lr=1e-2, trust=None),)
    learner = ContinualLearner(models["llama"], levels=levels, variant="whole", options=KEPT)
    method = GradientMethod(models["llama"], lr=1e-2, sizes=learner.sizes, averages=(8, 2))
    learner.read_tokens(ids[:96])
    method.read(ids[:96])
    text = ids[100:160]
    experts, rows = learner.losses(text, "levels"), method.losses(text)
    assert experts.shape == rows.shape == (4, 59)
    torch.testing.assert_close(experts, rows, rtol=1e-3, atol=1e-4)
    assert all((experts[i] - experts[i + 1]).abs().max() > 1e-2 for i in range(3))


def test_experts_are_base_averages_and_levels(new_learner, ids):
    learner, plain = new_learner(options=KEPT), new_learner()
    for one in (learner, plain):
        one.read_tokens(ids[:72])
    rows, levels = (one.losses(ids[:40], "levels") for one in (learner, plain))
    assert len(rows) == 5 and torch.equal(rows[[0, 3, 4]], levels)
    for row, average in zip(rows[1:3], learner.state.averages, strict=True):
        other = new_learner()
        states = zip(other.state.levels, average, strict=True)
        other.state = other.state._replace(
            levels=tuple(state._replace(moved=tuple(x[None] for x in own)) for state, own in states)
        )
        assert torch.equal(row, other.losses(ids[:40])[0])
    assert torch.equal(learner.losses(ids[:40], "base"), rows[[0, 4]])
    assert not torch.equal(rows[1], rows[2]) and not torch.equal(rows[2], rows[4])
    # without a gate they have no effect
    assert torch.equal(learner.losses(ids[:40]), plain.losses(ids[:40]))


@pytest.mark.parametrize("pieces", [(1,) * 72, (3, 5, 30, 34)])
def test_any_split_equals_the_whole(new_learner, ids, pieces):
    whole, parts = new_learner(NESTED, options=KEPT), new_learner(NESTED, options=KEPT)
    whole.read_tokens(ids[:72])
    first = 0
    for size in pieces:
        parts.read_tokens(ids[first : first + size], begins=first == 0)
        first += size
    assert equal(whole, parts)


@pytest.mark.parametrize(
    "at", [pytest.param(5, marks=pytest.mark.slow), pytest.param(32, marks=pytest.mark.slow), 77]
)
def test_save_load_and_fork_are_bitwise(new_learner, ids, tmp_path, at):
    whole, first, then = (new_learner(NESTED, options=KEPT) for _ in range(3))
    whole.read_tokens(ids[:at])
    first.read_tokens(ids[:at])
    then.load(first.save(tmp_path / "memory"))
    twin = first.fork()
    for learner in (then, twin):
        learner.read_tokens(ids[at:100], begins=False)
    assert equal(first, whole)
    whole.read_tokens(ids[at:100], begins=False)
    assert equal(then, whole) and equal(twin, whole)


def test_nested_reset_happens_after_averaging(new_learner, ids):
    """The average includes what the fast level learned before its reset."""
    levels = "8:1e-2:adam:0,32:1e-2:momentum"
    nested, never = new_learner(levels, options=KEPT), new_learner(options=KEPT)
    for one in (nested, never):
        one.read_tokens(ids[:32])
    assert not any(m.any() for m in moved(nested)[1])
    assert same(nested.state.averages, never.state.averages)


def test_at_learning_rate_zero_every_expert_is_the_base(new_learner, ids):
    learner = new_learner("8:0,32:0:momentum", options=KEPT)
    learner.read_tokens(ids[:72])
    rows = learner.losses(ids[:40], "levels")
    assert len(rows) == 5 and all(torch.equal(row, rows[0]) for row in rows)


@only_llama
def test_reset_also_resets_averages(new_learner, ids, tmp_path):
    learner = new_learner(options=KEPT)
    learner.read_tokens(ids)
    file = read_memory(learner.save(tmp_path / "memory"))
    learner.reset(1)
    for average in learner.state.averages:
        assert all(x.any() for x in average[0]) and not any(x.any() for x in average[1])
    names = reset_file(file, 1).tensors
    assert any(name.startswith("level.0.average.64.") for name in names)
    assert not any(name.startswith("level.1.") for name in names)
    learner.reset()
    assert equal(learner, new_learner(options=KEPT))


@only_llama
def test_files_store_averages_compactly(new_learner, ids, tmp_path):
    learner, other = new_learner(options=KEPT), new_learner(options=KEPT)
    learner.read_tokens(ids)
    file = learner.save(tmp_path / "memory")
    assert fork(file, tmp_path / "small", "16bit").error < 1e-3
    other.load(tmp_path / "small")
    for a, b in zip(flat(learner.state.averages), flat(other.state.averages), strict=True):
        assert a.any() and (a - b).abs().max() <= a.abs().max() * 2.0**-10
    memory = read_memory(file)
    both = merge([memory, memory], [0.5, 1.0])
    name = f"level.1.average.16.{learner.parameters[1][0]}"
    torch.testing.assert_close(both.tensors[name], 1.5 * memory.tensors[name])
    assert memory.about["format"] == FORMAT
    plain = new_learner()
    plain_file = plain.save(tmp_path / "plain")
    assert read_memory(plain_file).about["format"] == PLAIN
    with pytest.raises(UserError, match=r"averages over \[64, 16\] tokens"):
        plain.load(file)
    with pytest.raises(UserError, match="averages over"):
        learner.load(plain_file)
    with pytest.raises(UserError, match="different averages"):
        merge([memory, read_memory(plain_file)])


def test_consolidation_keeps_averages(ids):
    model = tiny_base("llama", vocab_size=258)
    levels = parse_levels("8:1e-2,32:1e-2")
    learner = ContinualLearner(model, byte_tokenizer(), levels=levels, options=KEPT)
    learner.read("abcabdabcabe" * 12)
    before = learner.state.averages
    consolidate(learner, Plan(budget=500, batch=160, length=16), ("abcabdabcabe" * 12,))
    assert same(before, learner.state.averages)


def test_loaded_averages_reach_the_gate(folder, tmp_path):
    text = "The keys hang in the blue shed. " * 3
    model, tokenizer, *_ = load_base(folder)
    learner = ContinualLearner(
        model, tokenizer, levels="8:3e-2,32:3e-2", gate="levels", options=KEPT
    )
    learner.read(text)
    file = learner.save(tmp_path / "memory")
    again = open_learner(folder, file, must_exist=True)
    again.gate = "levels"
    assert again.spans == (64, 16) and equal(learner, again)
    assert again.score(text).nats == learner.score(text).nats
    assert again.generate("The", tokens=6) == learner.generate("The", tokens=6)


@only_llama
@pytest.mark.parametrize(
    ("averages", "message"),
    [
        ((8,), "average over 8 tokens .* multiple of the fastest period, 8"),
        ((20,), "average over 20"),
        ((0,), "average over 0"),
        ((16, 16), "give each once"),
    ],
)
def test_invalid_averages_are_refused(new_learner, averages, message):
    with pytest.raises(UserError, match=message) as caught:
        new_learner(options=Options(averages=averages))
    assert "\n" not in str(caught.value)
