"""The Omega rule: against a reference loop, Titans (window of one), and the kernel."""

import naive_deep as naive
import pytest
import torch
from deep_memories import assert_same, assert_same_state, build, sequence

from nestling.core.error import UserError
from nestling.core.memory import Flow
from nestling.memories.deep import Omega
from nestling.memories.deep.features import Polynomial, width
from nestling.memories.titans.lmm import LongTermMemory, MemoryOptions
from nestling.memories.titans.lmm import Rows as TitansRows
from nestling.ops import momentum_gated_delta_rule


def step(head, gates):
    change = [-g for g in head.gradient()]
    if head.module.momentum:
        head.momentum = [gates["mu"] * s + g for s, g in zip(head.momentum, change, strict=True)]
        change = head.momentum
    return change


def loops(module, x, reset=None):
    config = module.config

    def strength(gates):
        share = config.gamma_max / (config.period * config.window) * gates["gamma"]
        return share * (1 - gates["mu"]) if config.momentum else share

    return naive.deep(module, x, step, strength, reset)


VARIANTS = {
    "default": {},
    "window 1": {"window": 1},
    "a window longer than a period": {"window": 7, "period": 3},
    "momentum": {"momentum": True},
    "matrix with momentum": {"layers": 1, "momentum": True, "decay_to": "zero"},
    "three layers": {"layers": 3, "expansion": 1},
    "degree 2": {"degree": 2},
    "matrix of degree 3": {"degree": 3, "layers": 1, "heads": 4},
    "forgets to zero": {"decay_to": "zero"},
    "clipped": {"clip": 0.1},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_matches_equations_token_by_token(name):
    options = {"window": 3, "gamma_max": 4.0, **VARIANTS[name]}
    module, x = build(Omega, **options), sequence(11).requires_grad_()
    reset = torch.zeros(2, 11, dtype=torch.bool)
    reset[1, 6] = True
    y, state = module(x, None, Flow(reset=reset))
    slow, heads = loops(module, x, reset)
    assert_same(module, y, slow, x)
    assert_same_state(module, state, heads)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("momentum", [False, True])
def test_window_of_one_reduces_to_titans(layers, momentum):
    """With v - k instead of v, since Titans' network has no residual."""
    module = build(Omega, window=1, layers=layers, momentum=momentum)
    narrow = {"expansion": 2} if layers > 1 else {}
    config = MemoryOptions(layers=layers, period=4, persistent=0, momentum=momentum, **narrow)
    titans = LongTermMemory(config, hidden_size=8, num_heads=2).double()
    titans.initial_layers = module.initial_layers
    x = sequence(10)
    rows, _ = module.project(x, module.convolution.init_tail(2), Flow())
    theta = module._strength(rows.gates)
    alpha, eta = 1 - rows.gates["alpha"], rows.gates.get("mu")
    theirs = TitansRows(rows.q, rows.k, rows.v - rows.k, theta, eta, alpha)
    titans.convolution.init_weights()
    other = titans.init_state(2, None)
    for begin in (0, 4, 8):
        y, other = titans.advance(theirs.cut(begin, begin + 4), other, None, begin < 8)
    _, state = module(x)
    for layer in range(layers):
        assert_equal(state.weight[layer], other.weight[layer])
        assert_equal(state.anchor[layer], other.anchor[layer])
    y = module.norm(rows.q[:, :, 8:] + y).transpose(1, 2).flatten(2)
    y = module.output(y * torch.nn.functional.silu(module.gate(x[:, 8:])))
    assert_equal(module(x)[0][:, 8:], y)


def assert_equal(got, want):
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-12)


def test_linear_memory_with_period_one_is_the_delta_rule_kernel():
    """M <- alpha M - gamma (k + M k - v) k^T."""
    options = {"window": 1, "layers": 1, "period": 1, "decay_to": "zero", "clip": 1e6}
    module, x = build(Omega, **options), sequence(13)
    rows, _ = module.project(x, module.convolution.init_tail(2), Flow())
    q, k, v = (part.transpose(1, 2) for part in rows[:3])
    gamma, alpha = rows.gates["gamma"].mT, rows.gates["alpha"].mT
    _, state = momentum_gated_delta_rule(
        q, k, gamma[..., None] * (v - k), alpha=alpha, beta=gamma, initial=module.initial_layers[0]
    )
    assert_equal(module(x)[1].weight[0], state.weight)


def test_window_rewrites_last_period_at_the_new_anchor():
    """Its value affects the write of the new period's first token."""
    module, x = build(Omega, window=3, period=4), sequence(5)
    _, state = module(x[:, :4])
    other = state._replace(values=state.values + 1)
    changed = module(x[:, 4:], other)[1].weight[0] - module(x[:, 4:], state)[1].weight[0]
    assert changed.abs().amax() > 1e-3


@pytest.mark.parametrize("degree", [2, 3])
def test_polynomial_features_have_polynomial_kernel(degree):
    phi = Polynomial(degree).double()
    with torch.no_grad():
        phi.degree_weight.copy_(torch.arange(1.0, degree + 2))
        x, y = sequence(2, width=5)
        features = phi(x), phi(y)
        assert features[0].shape[-1] == width(5, degree)
        terms = [
            (r + 1) ** 2 * (x * y).sum(-1) ** r / phi.degree_weight.square().sum()
            for r in range(degree + 1)
        ]
    assert_equal((features[0] * features[1]).sum(-1), sum(terms))


def test_repeated_key_moves_output_to_its_value_without_overshoot():
    module = build(Omega, strong=False, layers=1, period=16, window=4, clip=1e6)
    with torch.no_grad():
        for gate, bias in (("gamma", 30.0), ("alpha", 30.0)):
            getattr(module, f"{gate}_weight").zero_()
            getattr(module, f"{gate}_bias").fill_(bias)
        x = sequence(1).expand(2, 160, 8)
        _, state = module(x)
        rows, _ = module.project(x, state.tail, Flow())
        k, v = rows.k[:, :, -1:], rows.v[:, :, -1:]
        answer = k + k @ (state.weight[0] + module.initial_layers[0]).mT
    assert_equal(answer, v)


def test_weights_stay_bounded():
    options = {"half_life": (16.0, 64.0), "period": 16}
    module = build(Omega, strong=False, hidden_size=16, dtype=torch.float32, **options)
    norms, state = [], None
    with torch.no_grad():
        for part in sequence(1000, batch=1, width=16).float().split(125, dim=1):
            y, state = module(part, state)
            assert y.isfinite().all()
            norms.append(max(float(w.norm()) for w in state.weight))
    assert max(norms[4:]) < 1.3 * max(norms[:4])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 0}, "window"),
        ({"degree": 0}, "degree"),
        ({"gamma_init": 1.0}, "gamma_init"),
        ({"gamma_max": 0.0}, "gamma_max"),
        ({"clip": 0.0}, "clip"),
    ],
)
def test_invalid_options_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        Omega.Config(**options)
