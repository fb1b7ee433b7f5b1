"""Consolidation of fast levels into a slower one."""

import pytest
import torch
from learner_states import flat

from nestling.continual import ContinualLearner
from nestling.continual.consolidate import Plan, consolidate
from nestling.core.error import UserError
from nestling.data import byte_tokenizer
from nestling.models.pretrained import LevelSpec
from nestling.rules.level import write

from tiny_bases import tiny_base  # isort: skip

PLAN = Plan(budget=3_300, batch=160, length=16, lr=3e-2)
SHORT = Plan(budget=500, batch=160, length=16)
TEXT = "abcabdabcabdabcabe" * 12


@pytest.fixture(scope="module")
def learned():
    """A learner whose fast level has learned a text."""
    model = tiny_base("llama", vocab_size=258)
    with torch.no_grad():
        model.lm_head.weight.mul_(10)  # so that what is learned shows in the predictions
    levels = (
        LevelSpec(period=1024, lr=1e-2, trust=None),
        LevelSpec(period=8, lr=1e-2, trust=None),
    )
    learner = ContinualLearner(model, byte_tokenizer(), levels=levels)
    for _ in range(3):
        learner.read(TEXT)
    learner.finish()
    learner.reset(0)
    return learner


@pytest.mark.parametrize("texts", [(TEXT,), ()])
def test_slow_level_absorbs_the_fast_one(learned, texts):
    """With the text, and without it, replaying text that the model generates."""
    learner = learned.fork()
    done = consolidate(learner, PLAN, texts)
    assert done.learned_after < 0.5 * done.learned_before
    assert done.kept_after < done.learned_before
    assert done.tokens <= PLAN.budget and done.writes == PLAN.budget // 160 - 1
    slow, fast = learner.state.levels
    assert not any(value.any() for value in fast.moved) and any(v.any() for v in slow.moved)
    empty = learned.fork()
    empty.reset(1)
    if texts:
        before, after, none = (x.score(TEXT).loss for x in (learned, learner, empty))
        assert abs(after - before) < 0.5 * (none - before)


def test_consolidation_is_bitwise_deterministic(learned):
    one, again = learned.fork(), learned.fork()
    for learner in (one, again):
        assert consolidate(learner, SHORT, (TEXT,)).writes == 2
    for a, b in zip(one.state.levels, again.state.levels, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(flat(a), flat(b), strict=True))


def test_consolidated_content_survives_nested_resets(learned):
    """With share 0 a write of the slowest level resets it to its start."""
    levels = (
        LevelSpec(period=64, lr=0.0),
        LevelSpec(period=32, lr=0.0, share=0.0),
        LevelSpec(period=8, lr=1e-2, trust=None),
    )
    learner = ContinualLearner(learned.base.model, byte_tokenizer(), levels=levels)
    learner.read_tokens(learner.text.encode(TEXT)[:56])
    consolidate(learner, Plan(into=1, budget=900, batch=160, length=16), (TEXT,))
    own = learner.state.levels[1].moved
    assert any(value.any() for value in own) and learner.state.levels[1].writes.any()
    assert learner.read_tokens(learner.text.encode(TEXT)[56:72]).writes == (1, 1, 2)
    assert not learner.state.levels[1].writes.any()  # it was reset
    assert all(map(torch.equal, learner.state.levels[1].moved, own))


def test_original_learner_is_not_modified(learned):
    before = learned.weights()
    consolidate(learned.fork(), SHORT, (TEXT,))
    assert all(value is before[name] for name, value in learned.weights().items())


def test_invalid_plans_are_refused(learned):
    with pytest.raises(UserError, match="no faster one"):
        consolidate(learned.fork(), Plan(into=1))
    with pytest.raises(UserError, match="too short"):
        consolidate(learned.fork(), PLAN, ("short",))
    for options in ({"budget": 10}, {"keep": 1.0}, {"length": 1}):
        with pytest.raises(UserError):
            Plan(**options)


def test_dgd_erases_along_what_the_student_reads(learned, monkeypatch):
    """With the mean of x x^T over the replay of a write; inputs of the teachers are excluded."""
    learner, read, writes = learned.fork(), [], []
    names = learner.parameters[0]
    place = next(i for i, name in enumerate(names) if name.endswith("down_proj.weight"))
    module = learner.reader.model.get_submodule(names[place].removesuffix(".weight"))

    def note(writer, start, state):
        writes.append((state.gram[place][0], torch.cat(read)[-160:].double()))
        read.clear()
        return write(writer, start, state)

    monkeypatch.setattr("nestling.continual.consolidate.write", note)
    hook = module.register_forward_pre_hook(
        lambda _, args: read.append(args[0].detach().flatten(0, -2)) if args[0].grad_fn else None
    )
    moved = []
    for rule in ("dgd", "gradient"):
        other = learner.fork()
        plan = Plan(budget=480, batch=160, length=16, lr=0.3, rule=rule)
        assert consolidate(other, plan, (TEXT,)).writes == 2
        moved.append(other.state.levels[0].moved[place])
    hook.remove()
    for gram, x in writes[:2]:
        torch.testing.assert_close(gram.double(), x.T @ x / 160, rtol=1e-4, atol=1e-9)
    assert not torch.allclose(*moved)
