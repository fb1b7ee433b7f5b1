"""Parts of study: bodies, speakers, changes and their training."""

from collections import Counter

import pytest
import torch
from small_models import small
from tiny_bases import tiny_base
from torch import nn
from torch.nn import functional

from nestling.continual.study import losses
from nestling.continual.study.body import Cut, Whole, body
from nestling.continual.study.change import Factors, changed, joined, new_change, rounded
from nestling.continual.study.precision import HEAD, LAYERS
from nestling.continual.study.side_by_side import SideBySide, speaker
from nestling.continual.study.speaker import OneByOne
from nestling.continual.study.training import Kind, Lesson, Training, added
from nestling.models.functional import FunctionalModel
from nestling.models.pretrained import FAMILIES
from nestling.models.pretrained.apart import layout

TEXTS = [((3, 4, 5, 6), False), ((7, 8, 9), True), ((10, 11, 12, 13, 14), True)]
OPENING = (20, 21, 22)


def features(each, weights=None):
    entries = each.entries(TEXTS)
    places = [slice(0, len(ids)) for ids, _ in TEXTS]
    return each.logits(torch.cat(each.features(weights or {}, entries, places)))


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_every_body_matches_the_full_model(family):
    reader = FunctionalModel(tiny_base(family).eval())
    with torch.no_grad():
        found = features(body(reader, 2, OPENING))
        torch.testing.assert_close(found, features(Whole(reader, OPENING)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_products_in_bfloat16_are_near(family, monkeypatch):
    """In the gradient of a change, which stays in float32; also where they are emulated."""
    reader = FunctionalModel(tiny_base(family).eval())
    own = body(reader, 2, OPENING)
    assert isinstance(own, Cut)
    entries, lessons = own.entries(TEXTS), []
    places = [slice(0, len(ids) - 1) for ids, _ in TEXTS]
    for entry, place in zip(entries, places, strict=True):
        lessons.append((Lesson(entry, place, entry.ids[1:]), 1.0))
    start = {n: p for n, p in reader.model.named_parameters() if "layers.2.mlp" in n}
    change = {n: f._replace(left=f.left + 0.1) for n, f in new_change(start, 2, 0).items()}
    training = Training(own, {}, change, [], rate=1e-3, steps=1)
    exact = with_change(training, lessons)
    monkeypatch.setattr("nestling.continual.study.precision.has_bfloat16", lambda device: False)
    own.fast = True
    assert torch.equal(with_change(training, lessons), exact)
    monkeypatch.setattr("nestling.continual.study.precision.has_bfloat16", lambda device: True)
    near = with_change(training, lessons)
    assert near.dtype == torch.float32 and not torch.equal(near, exact)
    assert functional.cosine_similarity(near, exact, 0) > 0.99
    assert own.entries(TEXTS)[0].states.dtype == torch.float32


@pytest.mark.parametrize("most", [9, 30, 60])
def test_bfloat16_products_have_few_sizes(most, monkeypatch):
    """Otherwise a server that learns grows: kernels are compiled and kept for every size."""
    monkeypatch.setattr("nestling.continual.study.precision.has_bfloat16", lambda device: True)
    reader = FunctionalModel(tiny_base("llama").eval())
    texts = [(tuple(3 + i % 20 for i in range(n)), n % 2 > 0) for n in range(2, most, 7)]
    places = [slice(0, len(ids)) for ids, _ in texts]
    own, sizes = body(reader, 2, OPENING), set()
    exact = own.logits(torch.cat(own.features({}, own.entries(texts), places)))

    def note(module, given, out):
        if isinstance(module, nn.Linear) and out.dtype == torch.bfloat16:
            sizes.add((module is reader.model.get_output_embeddings(), given[0][..., 0].numel()))

    own.fast = True
    hooks = [module.register_forward_hook(note) for module in reader.model.modules()]
    near = own.logits(torch.cat(own.features({}, own.entries(texts), places)))
    for hook in hooks:
        hook.remove()
    assert near.shape == exact.shape
    assert (near - exact).abs().max() < 0.05 * exact.abs().max()
    assert sizes and all(count % (HEAD if head else LAYERS) == 0 for head, count in sizes)


def with_change(training, lessons):
    """The gradient of a change, in one vector."""
    with added(training.body.reader.model, training.change, {}):
        _, grads = training.body.together({}, lambda: training._gradient(lessons))
    return torch.cat([grad.flatten() for grad in grads])


def test_supported_families_are_split():
    kinds = {family: body(FunctionalModel(tiny_base(family).eval()), 2) for family in FAMILIES}
    cut = {family for family, found in kinds.items() if isinstance(found, Cut)}
    assert cut == {"gemma", "llama", "olmo2", "phi3", "qwen2", "qwen3", "smollm3"}


def test_packed_texts_attend_to_themselves_and_the_prefix_only():
    found = layout(2, [2, 1], [True, False], "cpu")
    assert found.places.tolist() == [0, 1, 2, 3, 0]
    assert found.tokens.flatten()[found.inside].tolist() == [2, 3, 4]
    assert found.seen.int().tolist() == [[[[1, 1, 1, 0], [1, 1, 1, 1]]], [[[0, 0, 1, 0]] * 2]]
    longer = layout(2, [2, 1], [True, False], "cpu", rest=3)
    assert longer.places.tolist() == [0, 1, 2, 3, 0, 0, 0, 0]
    assert longer.tokens.equal(found.tokens) and longer.inside.equal(found.inside)


def test_attention_implementation_is_restored():
    reader = FunctionalModel(tiny_base("llama").eval())
    ids, before = torch.tensor([[3, 4, 5]]), reader.model.config._attn_implementation
    with torch.no_grad():
        said = reader.model(ids).logits
        features(body(reader, 2, OPENING))
        assert torch.equal(reader.model(ids).logits, said)
    assert reader.model.config._attn_implementation == before


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_every_speaker_matches_one_by_one(family):
    reader = FunctionalModel(tiny_base(family).eval())
    fast, plain = speaker(reader), OneByOne(reader)
    told = plain.told((5, 6, 7))
    asked = [((8, 9), (10,)), ((11,), (12, 13)), ((14, 15, 16), (17,))]
    for one, two in zip(fast.scores(told, asked), plain.scores(told, asked), strict=True):
        torch.testing.assert_close(one.nats, two.nats, rtol=1e-4, atol=1e-4)
    prompts = [(8, 9), (11,), (14, 15, 16)]
    stop = frozenset({0})
    for after in ((), [(18, 19), (18, 19), (20,)], [(), (18, 19), (18, 19)]):
        said = [each.said(told, prompts, most=6, stop=stop, after=after) for each in (fast, plain)]
        assert said[0] == said[1]
    whole = [plain.said(plain.told((5, 6, 7, 18, 19)), [ids], most=6, stop=stop) for ids in prompts]
    assert [lines for [lines] in whole[1:]] == said[1][1:]
    assert isinstance(speaker(FunctionalModel(tiny_base("llama").eval())), SideBySide)


def start():
    generator = torch.Generator().manual_seed(0)
    return {
        "a": torch.randn(6, 4, generator=generator),
        "b": torch.randn(3, 5, generator=generator),
    }


def filled(seed):
    drawn = new_change(start(), 2, seed)
    return {
        name: Factors(torch.full_like(left, 0.5 + seed), right)
        for name, (left, right) in drawn.items()
    }


def test_new_change_is_zero_and_seeded():
    base = start()
    made = changed(base, [new_change(base, 2, 0)])
    assert all(torch.equal(made[name], base[name]) for name in base)
    same = [new_change(base, 2, seed) for seed in (0, 0, 1)]
    assert torch.equal(same[0]["a"].right, same[1]["a"].right)
    assert not torch.equal(same[0]["a"].right, same[2]["a"].right)


def test_joined_change_is_the_sum():
    base, one, two = start(), filled(1), filled(2)
    both = changed(base, [joined(one, two, 8)])
    apart = changed(base, [one, two])
    for name in base:
        torch.testing.assert_close(both[name], apart[name])


def test_joined_change_is_truncated_by_svd():
    one, two = filled(1), filled(2)
    pressed = joined(one, two, 3)
    for name, (left, right) in pressed.items():
        assert left.shape[1] == right.shape[0] == 3
        whole = one[name].product() + two[name].product()
        u, values, v = torch.linalg.svd(whole, full_matrices=False)
        nearest = u[:, :3] @ torch.diag(values[:3]) @ v[:3]
        torch.testing.assert_close(left @ right, nearest, rtol=1e-4, atol=1e-5)


def test_rounded_change_is_float16():
    assert {x.dtype for factors in rounded(filled(1)).values() for x in factors} == {torch.half}


def trained(model, steps=6, restored=None, count=1):
    reader = FunctionalModel(model)
    base = {
        n: p for n, p in model.named_parameters() if ".3." in n and ".mlp." in n and p.ndim == 2
    }
    whole = body(reader, 3)
    entries = whole.entries([((3, 4, 5, 6), False), ((7, 8, 9), False)])
    lessons = [Lesson(entries[0], slice(1, 3), (30, 31)), Lesson(entries[1], slice(0, 2), (32, 33))]
    kinds = [Kind(lessons, 1.0, count)]
    found = Training(whole, {}, new_change(base, 2, 0), kinds, rate=0.05, steps=steps)
    if restored:
        found.restore(*restored)
    return found


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_training_learns_and_resumes_bitwise(family):
    model = tiny_base(family).eval().requires_grad_(False)
    whole = trained(model)
    losses = [whole.step() for _ in range(6)]
    assert min(losses[2:]) < max(losses[:2])
    part = trained(model)
    for _ in range(3):
        part.step()
    kept = {name: value.clone() for name, value in part.tensors().items()}
    again = trained(model, restored=(3, kept))
    for _ in range(3):
        again.step()
    assert whole.tensors().keys() == again.tensors().keys()
    assert all(torch.equal(whole.tensors()[n], again.tensors()[n]) for n in whole.tensors())


def test_sentences_and_their_lessons_are_drawn_evenly():
    training = trained(tiny_base("llama").eval().requires_grad_(False))
    entry = training.kinds[0].lessons[0].entry
    groups = enumerate([0, 0, 0, 0, 1, 2])
    kind = Kind([Lesson(entry, slice(0, 1), (n,), group) for n, group in groups], 1.0, 2)
    drawn = []
    for done in range(12):
        training.done = done
        drawn += training._drawn(0, kind)
    counts = Counter(one.wanted[0] for one in drawn)
    assert counts == {0: 2, 1: 2, 2: 2, 3: 2, 4: 8, 5: 8}
    turns = [drawn[n : n + 3] for n in range(0, len(drawn), 3)]
    assert all({one.group for one in turn} == {0, 1, 2} for turn in turns)


def test_training_leaves_base_gradients_empty():
    model = tiny_base("llama").eval()
    trained(model).step()
    assert all(value.requires_grad and value.grad is None for value in model.parameters())


@pytest.fixture
def threads():
    """Sets torch's threads for a test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_parallel_step_equals_sequential_step(family, threads):
    threads(1)
    alone = trained(tiny_base(family).eval(), count=2)
    threads(2)
    both = [trained(tiny_base(family).eval(), count=2) for _ in range(2)]
    assert (alone.body.side.count, both[0].body.side.count) == (1, 2)
    for _ in range(3):
        one, two, same = (each.step() for each in (alone, *both))
        assert two == same
        assert one == pytest.approx(two, rel=1e-4)
    assert all(torch.equal(x, both[1].tensors()[n]) for n, x in both[0].tensors().items())


@pytest.mark.parametrize("held", [31 << 20, 4 * 5 * 64])
def test_losses_match_cross_entropy_and_kl(held, monkeypatch):
    monkeypatch.setattr(losses, "BYTES", held)
    model = tiny_base("llama").eval()
    whole = body(FunctionalModel(model), 3)
    drawn = torch.randn(9, model.config.hidden_size, generator=torch.Generator().manual_seed(0))
    parts = list(drawn.clone().requires_grad_().split([4, 3, 2]))
    other, weights = drawn[3:6], [0.5, 2.0, 1.0]
    found, grads = losses.losses(whole, parts, [(1, 2, 3, 4), other, (5, 6)], weights)
    say = [whole.logits(part) for part in parts]
    now, there = say[1].log_softmax(-1), whole.logits(other).softmax(-1)
    wanted = (
        0.5 * functional.cross_entropy(say[0], torch.tensor([1, 2, 3, 4]))
        + 2 * functional.kl_div(now, there, reduction="batchmean")
        + functional.cross_entropy(say[2], torch.tensor([5, 6]))
    )
    torch.testing.assert_close(found, float(wanted.detach()), rtol=1e-5, atol=0)
    torch.testing.assert_close(
        grads, list(torch.autograd.grad(wanted, parts)), rtol=1e-4, atol=1e-7
    )


def test_training_forward_equals_changed_weights():
    model = tiny_base("llama").eval().requires_grad_(False)
    done = trained(model)
    for _ in range(4):
        done.step()
    base = dict(model.named_parameters())
    now = changed(base, [{n: Factors(*(x.detach() for x in f)) for n, f in done.change.items()}])
    entries = done.body.entries([((3, 4, 5), False)])
    from nestling.continual.study.training import added

    with torch.no_grad(), added(model, done.change, {}) as weights:
        inside = done.body.features(weights, entries, [slice(0, 3)])[0]
    with torch.no_grad():
        outside = done.body.features(now, entries, [slice(0, 3)])[0]
    torch.testing.assert_close(inside, outside, rtol=1e-4, atol=1e-5)


def test_own_models_are_not_split():
    reader = FunctionalModel(small("hope"))
    assert isinstance(body(reader, 1), Whole) and isinstance(speaker(reader), OneByOne)
