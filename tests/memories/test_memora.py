"""Memora: against a reference loop with softmax and logarithm at every token."""

import naive_deep as naive
import pytest
import torch
from deep_memories import assert_same, assert_same_state, build, sequence
from torch.nn import functional

from nestling.core.error import UserError
from nestling.core.memory import Flow
from nestling.memories.deep import Memora
from nestling.memories.deep.memora import distributions


def mass(layer, inputs):
    return inputs**0.5 if layer else float(inputs)


class Head(naive.Head):
    """The printed rule: W <- c Softmax(alpha log(W / c) - eta grad), apart from the initial A."""

    def network(self, weights, x):
        parts = self.module.inner_scale, self.module.inner_shift
        scale, shift = (part.view(self.module.num_heads, -1)[self.head] for part in parts)
        z = weights[-1] @ naive.inputs_of_layers(weights, x)[-1]
        return x + functional.layer_norm(z, z.shape, eps=1e-5) * scale + shift

    def start(self):
        super().start()
        self.whole = [
            torch.softmax(w, -1) * mass(layer, w.shape[1]) for layer, w in enumerate(self.initial)
        ]
        self.whole_anchor = self.whole

    def read(self, x, q, k, v):
        config = self.module.config
        alpha, eta = self.gate("alpha", x), self.gate("eta", x) * config.eta_max / config.period
        error = self.network(self.whole_anchor, k) - v
        cut = config.clip / error.square().mean().sqrt().clamp(min=config.clip)

        def loss(weights):
            return 0.5 * (self.network(weights, k) - v).square().sum()

        found = torch.func.grad(loss)(tuple(self.whole_anchor))
        inputs = naive.inputs_of_layers(self.whole_anchor, k)
        weights, logs = [], []
        for layer, (u, g) in enumerate(zip(inputs, found, strict=True)):
            step = eta
            if layer:
                step = eta * len(u) ** 0.5 / (config.epsilon + u.square().sum())
            start = self.initial[layer]
            towards = start if config.decay_to == "init" else torch.zeros_like(start)
            before = torch.log(self.whole[layer] / mass(layer, len(u)))
            new = towards + alpha * (before - towards) - step * cut * g
            weights.append(torch.softmax(new, -1) * mass(layer, len(u)))
            logs.append(towards + alpha * (self.weight[layer] - towards) - step * cut * g)
        self.whole, self.weight = weights, logs
        self.count += 1
        if self.count % config.period == 0:
            self.whole_anchor, self.anchor = self.whole, self.weight
        return self.network(self.whole, q)


def loops(module, x, reset=None):
    return naive.deep(module, x, None, None, reset, Head)


VARIANTS = {
    "default": {},
    "matrix": {"layers": 1},
    "three layers": {"layers": 3, "expansion": 1},
    "to equal weights": {"decay_to": "zero"},
    "period 1": {"period": 1},
    "clipped": {"clip": 0.3},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_matches_equations_token_by_token(name):
    module, x = build(Memora, **{"eta_max": 4.0, **VARIANTS[name]}), sequence(11).requires_grad_()
    with torch.no_grad():
        module.inner_scale.copy_(torch.linspace(0.5, 1.5, 8))
    reset = torch.zeros(2, 11, dtype=torch.bool)
    reset[1, 6] = True
    y, state = module(x, None, Flow(reset=reset))
    slow, heads = loops(module, x, reset)
    assert_same(module, y, slow, x)
    assert_same_state(module, state, heads)


def test_weight_rows_are_scaled_distributions():
    module = build(Memora)
    _, state = module(sequence(9))
    for layer, (weight, base) in enumerate(zip(state.weight, module.base(), strict=True)):
        whole = distributions(weight + base, layer)
        assert whole.min() > 0
        rows = whole.sum(-1)
        torch.testing.assert_close(rows, torch.full_like(rows, mass(layer, whole.shape[-1])))


def test_write_reduces_the_error_of_its_key():
    module = build(Memora, strong=False, period=16, expansion=4, hidden_size=32)
    with torch.no_grad():
        module.eta_bias.fill_(3.0)
        x = sequence(1, width=32).expand(2, 161, 32)
        rows, _ = module.project(x, module(x)[1].tail, Flow())
        k, v = rows.k[:, :, -1:], rows.v[:, :, -1:]
        errors = []
        for length in (16, 160):
            _, state = module(x[:, :length])
            weights = [
                distributions(w + b, layer)
                for layer, (w, b) in enumerate(zip(state.weight, module.base(), strict=True))
            ]
            z = functional.gelu(k @ weights[0].mT) @ weights[1].mT
            errors.append((k + module._norm(z) - v).square().sum((1, 2, 3)))
    assert (errors[1] < errors[0]).all()


def test_states_stay_bounded():
    options = {"half_life": (16.0, 64.0), "period": 16}
    module = build(Memora, strong=False, hidden_size=16, dtype=torch.float32, **options)
    norms, state = [], None
    with torch.no_grad():
        for part in sequence(600, batch=1, width=16).float().split(75, dim=1):
            y, state = module(part, state)
            assert y.isfinite().all()
            norms.append(max(float(w.norm()) for w in state.weight))
    assert max(norms[4:]) < 1.3 * max(norms[:4])


@pytest.mark.parametrize(
    ("options", "message"), [({"clip": 0.0}, "clip"), ({"eta_init": 2.0}, "eta_init")]
)
def test_invalid_options_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        Memora.Config(**options)
