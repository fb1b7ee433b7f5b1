"""Learning from a stream, with a transformers model and one of ours."""

import dataclasses

import pytest
import torch
from learner_states import equal
from tolerances import relative_rms
from torch.nn import functional

from nestling.continual import ContinualLearner, Options
from nestling.core.error import UserError
from nestling.models.pretrained import LevelSpec, parse_levels
from nestling.rules import RULES

# properties that do not depend on the model; the other one is slower
only_llama = pytest.mark.parametrize("kind", ["llama"])


def logits(learner, ids):
    with torch.no_grad():
        return learner.reader.read(learner.weights(), torch.tensor([ids]))[0]


def test_at_learning_rate_zero_the_model_is_the_base(new_learner, ids):
    learner, base = new_learner("8:0,32:0:momentum"), new_learner()
    assert sum(learner.read_tokens(ids[:72]).writes) == 2 + 9
    assert torch.equal(logits(learner, ids[:50]), logits(base, ids[:50]))
    with torch.no_grad():
        direct = base.reader.model(torch.tensor([ids[:50]])).logits
    assert torch.equal(logits(learner, ids[:50]), direct)


def test_base_model_is_never_modified(new_learner, ids):
    learner = new_learner()
    before = {name: value.clone() for name, value in learner.reader.model.state_dict().items()}
    learner.read_tokens(ids[:72])
    assert any(not torch.equal(value, before[name]) for name, value in learner.weights().items())
    for name, value in learner.reader.model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_level_changes_only_at_multiples_of_its_period(new_learner, ids):
    learner = new_learner()
    for count, token in enumerate(ids[:72], start=1):
        before = learner.weights()
        learner.read_tokens([token], begins=count == 1)
        after = learner.weights()
        for names, period in zip(learner.parameters, (32, 8), strict=True):
            changed = any(not torch.equal(before[name], after[name]) for name in names)
            assert changed == (count % period == 0), (count, period)


@pytest.mark.parametrize("pieces", [(1,) * 72, (3, 5, 30, 34)])
def test_any_split_equals_the_whole(new_learner, ids, pieces):
    whole, parts = new_learner(), new_learner()
    at_once = whole.read_tokens(ids[:72])
    first, nats, scored = 0, 0.0, 0
    for size in pieces:
        reading = parts.read_tokens(ids[first : first + size], begins=first == 0)
        first, nats, scored = first + size, nats + reading.nats, scored + reading.scored
    assert equal(whole, parts)
    assert scored == at_once.scored and abs(nats - at_once.nats) < 1e-9 * nats


def test_losses_are_causal(new_learner, ids):
    """Losses before a changed token stay bitwise equal."""
    other = [*ids[:61], 63 - ids[61], *ids[62:]]
    one, two = new_learner(), new_learner()
    pairs = [one.read_tokens(ids[:56]).nats, two.read_tokens(other[:56]).nats]
    assert pairs[0] == pairs[1] and equal(one, two)
    assert one.read_tokens(ids[56:72], begins=False) != two.read_tokens(other[56:72], begins=False)


@only_llama
def test_documents_share_weights_but_not_context(new_learner, ids):
    """At rate zero the losses in a stream equal those of separate documents."""
    learner = new_learner("8:0,32:0:momentum")
    parts = [ids[:13], ids[13:90], ids[90:91], ids[91:200]]
    total = sum(learner.read_tokens(part).nats for part in parts) + learner.finish().nats
    alone = sum(new_learner().score(part).nats for part in parts)
    assert total == pytest.approx(alone, rel=1e-6)


def test_write_applies_the_rule_to_the_mean_gradient(models, ids):
    """Two writes against a loop: the gradient of the next-token loss at the period's weights."""
    level = LevelSpec(period=8, lr=0.5, rule="gradient", clip=None, trust=None)
    learner = ContinualLearner(models["llama"], levels=(level,))
    learner.read_tokens(ids[:16])
    model = models["llama"]
    names = learner.parameters[0]
    values = {name: dict(model.named_parameters())[name].detach().clone() for name in names}
    for first, begin in ((0, 0), (8, 7)):
        for value in values.values():
            value.requires_grad_()
        out = torch.func.functional_call(model, values, (torch.tensor([ids[: first + 8]]),))
        targets = torch.tensor(ids[begin + 1 : first + 8])
        losses = functional.cross_entropy(
            out.logits[0, begin : first + 7], targets, reduction="none"
        )
        grads = torch.autograd.grad(losses.mean(), list(values.values()))
        values = {
            name: (value - 0.5 * grad).detach()
            for (name, value), grad in zip(values.items(), grads, strict=True)
        }
        if first == 0:
            after = {name: value.clone() for name, value in values.items()}
    written = learner.weights()
    one = ContinualLearner(model, levels=(level,))
    one.read_tokens(ids[:8])
    for name in names:
        torch.testing.assert_close(one.weights()[name], after[name], rtol=1e-5, atol=1e-7)
        # the second gradient flows through cached keys of the first period
        assert not torch.equal(written[name], after[name])


@only_llama
@pytest.mark.parametrize("rule", RULES)
def test_every_rule_writes_and_resumes_from_file(new_learner, ids, tmp_path, rule):
    """Within a period, bitwise."""
    levels = f"8:1e-2:{rule},16:1e-2:{rule}"
    whole, then = new_learner(levels), new_learner(levels)
    whole.read_tokens(ids[:43])
    then.load(whole.save(tmp_path / "memory"))
    for learner in (whole, then):
        learner.read_tokens(ids[43:80], begins=False)
    assert equal(whole, then)
    own = dict(whole.reader.model.named_parameters())
    assert all(not torch.equal(value, own[name]) for name, value in whole.weights().items())


def test_dgd_erases_along_the_inputs(models, ids):
    """The first write: moved (I + eta X^T X / n) = - eta g."""
    place, moved, seen = "model.layers.3.mlp.down_proj", {}, []
    module = models["llama"].get_submodule(place)
    for rule in ("gradient", "dgd"):
        level = LevelSpec(period=8, lr=50.0, rule=rule, clip=None, trust=None, layers=(3,))
        learner = ContinualLearner(models["llama"], levels=(level,))
        index = learner.parameters[0].index(f"{place}.weight")
        hook = module.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
        learner.read_tokens(ids[:8])
        hook.remove()
        moved[rule] = learner.state.levels[0].moved[index][0].double()
    assert not module._forward_pre_hooks
    x = seen[0].detach()[0].double()
    assert len(x) == 7  # the first token of a document has no loss
    erased = moved["dgd"] @ (torch.eye(x.shape[1], dtype=torch.float64) + 50.0 * x.T @ x / 7)
    torch.testing.assert_close(erased, moved["gradient"], rtol=1e-4, atol=1e-6)
    assert relative_rms(moved["dgd"], moved["gradient"]) > 1e-3


def test_fork_does_not_modify_the_original(new_learner, ids):
    learner, same = new_learner(), new_learner()
    for one in (learner, same):
        one.read_tokens(ids[:60])
    fork = learner.fork()
    fork.read_tokens(ids[60:100], begins=False)
    assert equal(learner, same) and not equal(fork, learner)
    learner.read_tokens(ids[60:100], begins=False)
    assert equal(fork, learner)


@only_llama
def test_reset_restores_one_level_or_all(new_learner, ids):
    learner = new_learner()
    learner.read_tokens(ids)
    slow, fast = learner.parameters
    kept = learner.weights()
    learner.reset(1)
    own = dict(learner.reader.model.named_parameters())
    assert all(torch.equal(learner.weights()[name], own[name]) for name in fast)
    assert all(torch.equal(learner.weights()[name], kept[name]) for name in slow)
    learner.reset()
    assert equal(learner, new_learner())
    with pytest.raises(UserError, match="no level 2"):
        learner.reset(2)


@only_llama
def test_surprise_gate_skips_expected_text(new_learner, ids):
    never = new_learner(options=Options(surprise=1e9))
    assert never.read_tokens(ids[:72]).writes == (0, 0)
    always, plain = new_learner(options=Options(surprise=0.0)), new_learner()
    for learner in (always, plain):
        learner.read_tokens(ids[:72])
    assert equal(always, plain)
    some = new_learner(options=Options(surprise=4.2))
    reading = some.read_tokens(ids[:72])
    assert 0 < reading.learned < reading.scored


@only_llama
def test_finish_writes_open_periods_and_restarts_them(new_learner, ids):
    learner = new_learner()
    learner.read_tokens(ids[:37])
    assert learner.finish().writes == (1, 1)
    assert learner.state.stream.open_ids == ()
    assert learner.read_tokens(ids[37:68], begins=False).writes == (0, 3)
    assert learner.read_tokens(ids[68:69], begins=False).writes == (1, 1)


@only_llama
def test_loss_falls_on_repeated_text(new_learner, ids):
    """The loss of a text falls by reading it."""
    learner = new_learner()
    before = learner.score(ids[:100]).loss
    for _ in range(3):
        learner.read_tokens(ids[:100])
    assert learner.score(ids[:100]).loss < before


def test_long_document_is_read_in_windows(models, ids):
    """Within a window as in the model; at its end the last quarter is read again."""
    learner = ContinualLearner(models["llama"], levels=parse_levels("8:0"))
    assert learner.sizes.window == 64 and learner.sizes.overlap == 16
    learner.read_tokens(ids[:160])
    assert len(learner.state.stream.window) <= 64

    def direct(context, targets):
        tokens = torch.tensor([context + targets])
        with torch.no_grad():
            out = models["llama"](tokens[:, :-1]).logits[0, len(context) - 1 :]
        return functional.cross_entropy(out, tokens[0, len(context) :], reduction="sum").item()

    expected = direct(ids[:1], ids[1:65])  # inputs 0 .. 63 fill the first window
    expected += direct(ids[48:65], ids[65:113]) + direct(ids[96:113], ids[113:161])
    assert learner.score(ids[:161]).nats == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("levels", "options", "message"),
    [
        ("8,12", {}, "do not fit"),
        ("8,8", {}, "differ"),
        ("inf", {}, "no level is ever written"),
        ("0", {}, "at least 1"),
        ("8:-1", {}, "at least 0"),
        ("8:0.1:adm", {}, "did you mean 'adam'"),
        ("8:0.1:dgd", {"surprise": 1.0}, "dgd"),
        ("8:x", {}, "cannot be read"),
        ("8:1:adam:0.1:3", {}, "too many parts"),
        ("8", {"segment": 3}, "divisor"),
        ("8", {"window": 65}, "65"),
        ("8", {"window": 8}, None),
        ("8", {"segment": 0}, "at least 1"),
    ],
)
def test_invalid_levels_are_refused(models, levels, options, message):
    if message is None:
        learner = ContinualLearner(
            models["llama"], levels=parse_levels(levels), options=Options(**options)
        )
        assert learner.sizes.segment == 4
        return
    with pytest.raises(UserError, match=message) as caught:
        ContinualLearner(models["llama"], levels=parse_levels(levels), options=Options(**options))
    assert "\n" not in str(caught.value)


def test_level_spec_round_trip():
    spec = LevelSpec(period=64, lr=0.5, rule="m3", clip=None, trust=None, layers=(1, 2), share=0.5)
    assert LevelSpec.of(spec.record()) == spec
    frozen = dataclasses.replace(spec, period=float("inf"), share=None)
    assert LevelSpec.of(frozen.record()) == frozen
