"""What a change does to other text: its penalty, and the inputs of maps it is measured at."""

import math

import pytest
import torch
from tiny_bases import tiny_base
from torch import nn

from nestling.continual.study.body import Cut, body
from nestling.continual.study.change import Factors, new_change
from nestling.continual.study.disturbance import SAMPLED, SMALL, Disturbance
from nestling.continual.study.inputs import inputs_of
from nestling.continual.study.training import Kind, Lesson, Training
from nestling.models.functional import FunctionalModel


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_penalty_and_gradients_match_the_formula():
    inputs = {"one": drawn(9, 5), "two": drawn(7, 3, seed=1)}
    maps = {"one": drawn(4, 5, seed=2), "two": drawn(6, 3, seed=3)}
    change = {
        name: Factors(drawn(len(w), 2, seed=4).requires_grad_(), drawn(2, w.shape[1], seed=5))
        for name, w in maps.items()
    }
    change = {n: Factors(f.left, f.right.requires_grad_()) for n, f in change.items()}
    energy = [
        (inputs[n] @ (f.left @ f.right).T).square().sum() / (inputs[n] @ maps[n].T).square().sum()
        for n, f in change.items()
    ]
    wanted = 0.7 * torch.log1p(torch.stack(energy).mean() / SMALL)
    found, grads = Disturbance(inputs, maps, 0.7).of(change)
    assert found == pytest.approx(float(wanted.detach()))
    values = [x for f in change.values() for x in f]
    each = torch.autograd.grad(wanted, values)
    torch.testing.assert_close([x for f in grads.values() for x in f], list(each))


def test_many_inputs_are_sampled_and_silent_maps_left_out():
    rows, w = drawn(5 * SAMPLED + 3, 2), drawn(2, 2, seed=1)
    silent = {"a": rows, "b": torch.zeros(4, 2, dtype=torch.float64)}
    penalty = Disturbance(silent, {"a": w, "b": w}, 1.0)
    assert len(penalty._inputs["a"]) <= SAMPLED and list(penalty._inputs) == ["a"]
    none, grads = penalty.of({"a": Factors(torch.zeros_like(w), w)})
    assert none == 0 and not any(x.any() for x in grads["a"])
    whole = Disturbance({"a": rows}, {"a": w}, 1.0).of({"a": Factors(w, w)})[0]
    assert whole == pytest.approx(math.log1p(float((w @ w).square().sum()) / SMALL), rel=0.5)


def lesson(own, ids):
    [entry] = own.entries([(ids, False)])
    return Lesson(entry, slice(0, len(ids) - 1), ids[1:])


def test_inputs_are_those_that_maps_read(monkeypatch):
    """At all tokens; rows that are only filled up have none."""
    reader = FunctionalModel(tiny_base("llama").eval())
    own = body(reader, 2)
    assert isinstance(own, Cut)
    lessons = [lesson(own, (3, 4, 5)), lesson(own, (6, 7))]
    names = [n for n, _ in reader.model.named_parameters() if "layers.2." in n]
    found = inputs_of(own, names, lessons)
    maps = {n for n in names if "proj" in n}
    assert set(found) == maps and {len(rows) for rows in found.values()} == {5}
    monkeypatch.setattr("nestling.continual.study.precision.has_bfloat16", lambda device: True)
    own.fast = True
    assert {len(rows) for rows in inputs_of(own, names, lessons).values()} == {5}


def test_training_with_a_penalty_disturbs_other_text_less():
    reader = FunctionalModel(tiny_base("llama").eval().requires_grad_(False))
    own = body(reader, 2)
    start = {n: p for n, p in reader.model.named_parameters() if "layers.2.mlp" in n}
    told, others = lesson(own, (3, 4, 5, 6)), [lesson(own, (20, 21, 22)), lesson(own, (23, 24))]
    read = inputs_of(own, start, others)
    meter, energies, losses = Disturbance(read, start, 1.0), [], []
    for penalty in (None, Disturbance(read, start, 3.0)):
        kinds = [Kind([told], 1.0, 1)]
        change = new_change(start, 4, 0)
        done = Training(own, {}, change, kinds, rate=1e-2, steps=30, disturbance=penalty)
        losses.append([done.step() for _ in range(30)])
        energies.append(
            meter.of({n: Factors(*(x.detach() for x in f)) for n, f in done.change.items()})[0]
        )
    assert energies[1] < energies[0]
    assert losses[0][0] == pytest.approx(losses[1][0]) and min(losses[0]) < losses[0][0]


def test_only_weights_of_linear_maps_have_inputs():
    reader = FunctionalModel(tiny_base("gpt2").eval())
    names = [n for n, _ in reader.model.named_parameters()]
    own = body(reader, 1)
    found = inputs_of(own, names, [lesson(own, (3, 4))])
    linear = {f"{n}.weight" for n, m in reader.model.named_modules() if isinstance(m, nn.Linear)}
    assert set(found) <= linear
