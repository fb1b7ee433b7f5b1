"""Atlas: against a reference loop, and the Omega rule with momentum without Newton-Schulz."""

import naive_deep as naive
import pytest
import torch
from deep_memories import assert_same, assert_same_state, build, sequence

from nestling.core.error import UserError
from nestling.core.memory import Flow
from nestling.memories.deep import Atlas, Omega, atlas
from nestling.rules.newton_schulz import newton_schulz as ours


def newton_schulz(x, steps):
    """As Muon is published: quintic steps from x over its Frobenius norm (plus 1e-14, squared)."""
    x = x / (x.square().sum() + 1e-14).sqrt()
    for _ in range(steps):
        gram = x @ x.mT
        x = 3.4445 * x - 4.7750 * gram @ x + 2.0315 * gram @ gram @ x
    return x


def step(head, gates):
    config = head.module.config
    change = head.gradient()
    head.momentum = [gates["mu"] * s - g for s, g in zip(head.momentum, change, strict=True)]
    moves = []
    for layer, s in enumerate(head.momentum):
        eta = config.eta_max / config.period * gates["eta"]
        eta = eta / s.shape[1] ** 0.5 if layer else eta
        moves.append(eta * newton_schulz(s, config.newton_schulz))
    return moves


def loops(module, x, reset=None):
    def strength(gates):
        return gates["gamma"] * (1 - gates["mu"]) / module.config.window

    return naive.deep(module, x, step, strength, reset)


VARIANTS = {
    "default": {},
    "window 1": {"window": 1},
    "a window longer than a period": {"window": 7, "period": 3},
    "matrix": {"layers": 1},
    "degree 2": {"degree": 2, "heads": 4},
    "forgets to zero": {"decay_to": "zero"},
    "three steps": {"newton_schulz": 3},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_matches_equations_token_by_token(name):
    module = build(Atlas, **{"window": 3, **VARIANTS[name]})
    x = sequence(11).requires_grad_()
    reset = torch.zeros(2, 11, dtype=torch.bool)
    reset[1, 6] = True
    y, state = module(x, None, Flow(reset=reset))
    slow, heads = loops(module, x, reset)
    assert_same(module, y, slow, x)
    assert_same_state(module, state, heads)


@pytest.mark.parametrize("shape", [(4, 9), (9, 4), (5, 5)])
def test_newton_schulz_output_is_near_orthogonal(shape):
    x = torch.randn(3, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    got = ours(x, 5)
    for one, y in zip(x, got, strict=True):
        want = newton_schulz(one, 5)
        assert (y - want).norm() <= 1e-9 * want.norm()
        values = torch.linalg.svdvals(y)
        assert values.min() > 0.6 and values.max() < 1.3
    assert ours(torch.zeros(2, 3), 5).abs().max() == 0


def test_without_newton_schulz_reduces_to_omega_with_momentum(monkeypatch):
    monkeypatch.setattr(atlas, "newton_schulz", lambda x, steps: x * layer_scale(x))
    options = {"window": 3, "expansion": 2}
    module = build(Atlas, **options)
    omega = build(Omega, momentum=True, gamma_max=0.5, **options)
    with torch.no_grad():
        module.eta_weight.zero_()
        module.eta_bias.zero_()
    parts = {k: v for k, v in module.state_dict().items() if not k.startswith("eta")}
    omega.load_state_dict(parts)
    x = sequence(11)
    assert (module(x)[0] - omega(x)[0]).norm() <= 1e-9 * omega(x)[0].norm()
    for got, want in zip(module(x)[1].weight, omega(x)[1].weight, strict=True):
        assert (got - want).norm() <= 1e-9 * want.norm()


def layer_scale(x):
    """Undoes the scaling of hidden layers' steps: their inputs are 8 wide, the first's 4."""
    return 8**0.5 if x.shape[-1] == 8 else 1.0


def test_step_size_is_independent_of_error_size():
    """As in Muon, scaling all weights gamma changes nothing."""
    module, x = build(Atlas, window=3), sequence(9)
    with torch.no_grad():
        module.gamma_weight.zero_()
        module.gamma_bias.fill_(0.0)
        y, _ = module(x)
        # large enough that the zero threshold of Newton-Schulz has no effect
        module.gamma_bias.fill_(-2.0)
        assert (module(x)[0] - y).norm() <= 1e-9 * y.norm()


def test_weights_stay_bounded():
    options = {"half_life": (16.0, 64.0), "period": 16}
    module = build(Atlas, strong=False, hidden_size=16, dtype=torch.float32, **options)
    norms, state = [], None
    with torch.no_grad():
        for part in sequence(600, batch=1, width=16).float().split(75, dim=1):
            y, state = module(part, state)
            assert y.isfinite().all()
            norms.append(max(float(w.norm()) for w in state.weight))
    assert max(norms[4:]) < 1.3 * max(norms[:4])


@pytest.mark.parametrize(
    ("options", "message"), [({"newton_schulz": 0}, "newton"), ({"eta_init": 2.0}, "eta_init")]
)
def test_invalid_options_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        Atlas.Config(**options)
