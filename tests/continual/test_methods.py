"""Continual-learning methods; none changes the model it is given."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from tiny_bases import VOCABULARY, tiny_base
from torch.nn import functional
from transformers.cache_utils import DynamicCache

from nestling.continual import ContinualLearner
from nestling.continual.methods import GradientMethod, InContext, Levels, Retrieval
from nestling.continual.methods.elastic import Elastic
from nestling.continual.methods.rehearsal import Rehearsal
from nestling.continual.stream import Cut
from nestling.models.pretrained import parse_levels

SIZES = Cut(8, 32)


@pytest.fixture(scope="module")
def model():
    return tiny_base("llama").eval()


@pytest.fixture(scope="module")
def document():
    generator = torch.Generator().manual_seed(0)
    return torch.randint(5, VOCABULARY, (30,), generator=generator).tolist()


def weights(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def methods(model):
    # random weights have small norms: within the trust bound nothing can be learned
    free = tuple(replace(level, trust=None) for level in parse_levels("8:1e-2,16:1e-2"))
    return {
        "all": GradientMethod(model, lr=1e-3, sizes=SIZES),
        "lora": GradientMethod(model, lr=1e-2, sizes=SIZES, trained="lora", rank=2),
        "elastic": GradientMethod(model, lr=1e-3, sizes=SIZES, elastic=Elastic(1.0)),
        "rehearsal": GradientMethod(model, lr=1e-3, sizes=SIZES, rehearsal=Rehearsal(4)),
        "levels": Levels(ContinualLearner(model, levels=free)),
        "in-context": InContext(model, kept=8, window=32, segment=8),
        "retrieval": Retrieval(model, window=32, segment=8, passage=8),
    }


NAMES = ("all", "lora", "elastic", "rehearsal", "levels", "in-context", "retrieval")
LEARNING = ("all", "lora", "elastic", "rehearsal", "levels")


@pytest.mark.parametrize("name", NAMES)
def test_every_method_starts_as_the_base_model(model, document, name):
    """With a window as long as the document, all scores equal one forward pass."""
    short = document[:16]
    with torch.no_grad():
        logits = model(torch.tensor([short])).logits[0, :-1].float()
    want = functional.cross_entropy(logits, torch.tensor(short[1:]), reduction="sum").item()
    reading = methods(model)[name].score(short)
    assert reading.scored == 15
    assert reading.nats == pytest.approx(want, rel=1e-5)


@pytest.mark.parametrize("name", LEARNING)
def test_loss_falls_on_repeated_text_and_base_is_unchanged(model, document, name):
    before = weights(model)
    method = methods(model)[name]
    first = method.score(document).nats
    for _ in range(6):
        method.read(document)
    method.end_task()
    assert method.score(document).nats < first - 0.5
    assert method.updates >= 18
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())


def test_fine_tuning_matches_adam_on_segment_means(model, document):
    """Against a plain loop, for a document of two segments within one window."""
    method = GradientMethod(model, lr=1e-3, sizes=SIZES, clip=math.inf)
    method.read(document[:16])
    plain = copy.deepcopy(model)
    optimizer = torch.optim.Adam(plain.parameters(), lr=1e-3)
    ids = torch.tensor([document[:16]])
    cache = None
    for inputs, targets in ((ids[:, :7], ids[0, 1:8]), (ids[:, 7:15], ids[0, 8:16])):
        out = plain(inputs, past_key_values=cache, use_cache=True)
        layers = out.past_key_values.layers
        cache = DynamicCache(tuple((x.keys.detach(), x.values.detach()) for x in layers))
        optimizer.zero_grad()
        functional.cross_entropy(out.logits[0].float(), targets).backward()
        optimizer.step()
    for p, q in zip(method.model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-6)


def test_averages_track_the_current_weights(model, document):
    """Each update moves an average over k by 1 / k; they are experts between base and current."""
    method = GradientMethod(model, lr=1e-2, sizes=SIZES, averages=(4, 2))
    name = "model.layers.0.mlp.down_proj.weight"
    now = dict(method.model.named_parameters())[name]
    expected = {count: now.detach().clone() for count in (4, 2)}
    before = method.losses(document)
    assert before.shape == (4, 29) and all(torch.equal(row, before[0]) for row in before)
    for first in range(0, 24, 8):
        method.read(document[first : first + 8])
        for count, value in expected.items():
            expected[count] = value + (now.detach() - value) / count
    for count, value in expected.items():
        torch.testing.assert_close(method.averages[count][name], value)
    after = method.losses(document)
    assert torch.equal(after[0], before[0]) and len({float(row.sum()) for row in after}) == 4
    assert float(after[3].double().sum()) == pytest.approx(method.score(document).nats)


@pytest.mark.parametrize("finishing", [False, True])
def test_short_document_is_learned_only_when_finishing(model, document, finishing):
    short = document[:7]  # of a period of 16
    method = Levels(ContinualLearner(model, levels="16:1e-2"), finishing=finishing)
    before = float(method.score(document).nats)
    method.read(short)
    assert method.updates == int(finishing)
    assert (float(method.score(document).nats) != before) == finishing
    assert len(method.learner.state.stream.open_ids) == (0 if finishing else 7)


def test_lora_trains_only_its_parameters(model, document):
    method = methods(model)["lora"]
    frozen = {n: p.clone() for n, p in method.model.named_parameters() if not p.requires_grad}
    assert sum(p.numel() for p in method.parameters) < sum(p.numel() for p in frozen.values())
    method.read(document)
    after = dict(method.model.named_parameters())
    assert all(torch.equal(after[n], p) for n, p in frozen.items())


def test_elastic_gradient_matches_its_penalty():
    parameters = [torch.nn.Parameter(torch.tensor([1.0, 2.0])), torch.nn.Parameter(torch.ones(1))]
    elastic = Elastic(3.0)
    for gradient in ((1.0, 2.0), (3.0, 0.0)):
        parameters[0].grad = torch.tensor(gradient)
        parameters[1].grad = torch.tensor([1.0])
        elastic.note(parameters)
    elastic.end_task(parameters)
    fisher = [torch.tensor([10.0, 4.0]), torch.tensor([2.0])]  # sums of squares
    mean = sum(f.sum() for f in fisher) / 3
    anchors = [p.detach().clone() for p in parameters]
    with torch.no_grad():
        parameters[0].add_(torch.tensor([0.5, -1.0]))
    for p in parameters:
        p.grad = None
    penalty = sum(
        3.0 / 2 * (f / mean * (p - a) ** 2).sum()
        for f, p, a in zip(fisher, parameters, anchors, strict=True)
    )
    want = torch.autograd.grad(penalty, parameters)
    elastic.pull(parameters)
    for p, g in zip(parameters, want, strict=True):
        torch.testing.assert_close(p.grad, g)


def test_strong_elastic_penalty_limits_drift(model, document):
    known = [[torch.ones_like(p) for p in model.parameters()]]
    held, free = (
        GradientMethod(model, lr=1e-3, sizes=SIZES, elastic=Elastic(strength, known))
        for strength in (1e4, 0.0)
    )
    distance = []
    for method in (held, free):
        for _ in range(5):
            method.read(document)
        pairs = zip(method.model.parameters(), model.parameters(), strict=True)
        distance.append(sum((p - q).square().sum().item() for p, q in pairs))
    assert distance[0] < 0.3 * distance[1]


def test_reservoir_keeps_segments_uniformly():
    counts = [0] * 20
    for seed in range(600):
        store = Rehearsal(5, seed=seed)
        for number in range(20):
            store.store((number,))
        assert len(store.segments) == 5
        for (number,) in store.segments:
            counts[number] += 1
    # 150 each, standard deviation about 10.6
    assert all(abs(count - 150) < 48 for count in counts)


def test_retrieval_finds_the_passage_with_the_rare_tokens(model):
    method = Retrieval(model, window=32, segment=4, passage=4)
    method.read([1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 9])
    method.read([1, 2, 3, 40, 41, 42, 43, 44])
    assert method.nearest([41, 1]) == [4]
    assert method.nearest([60]) == []
    assert method.prefix((0, 0, 41, 42)) == (41, 42, 43, 44)
    assert method.prefix((5, 6, 7, 8)) == (5, 6, 7, 8, 9, 9, 9, 9)


def test_in_context_prefix_is_the_last_tokens_read(model, document):
    method = InContext(model, kept=8, window=32, segment=8)
    method.read(document[:5])
    method.read(document[10:20])
    assert method.prefix == tuple(document[12:20])
    text = document[20:28]
    with torch.no_grad():
        logits = model(torch.tensor([[*document[12:20], *text]])).logits[0, 8:-1].float()
    want = functional.cross_entropy(logits, torch.tensor(text[1:]), reduction="sum").item()
    assert method.score(text).nats == pytest.approx(want, rel=1e-5)
