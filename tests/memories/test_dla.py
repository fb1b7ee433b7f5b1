"""Deep linear attention: against a reference loop; with a matrix, gated linear attention."""

import naive_deep as naive
import pytest
import torch
from deep_memories import assert_same, assert_same_state, build, sequence

from nestling.core.error import UserError
from nestling.core.memory import Flow
from nestling.memories.deep import DLA
from nestling.ops import momentum_gated_delta_rule


def step(head, gates):
    return [-g for g in head.gradient()]


def loops(module, x, reset=None):
    def strength(gates):
        return module.config.eta_max * gates["eta"]

    return naive.deep(module, x, step, strength, reset, naive.DotHead)


VARIANTS = {
    "default": {},
    "matrix": {"layers": 1},
    "three layers": {"layers": 3, "expansion": 1},
    "forgets to zero": {"decay_to": "zero"},
    "period 1": {"period": 1},
    "other heads": {"heads": 1},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_matches_equations_token_by_token(name):
    module, x = build(DLA, **VARIANTS[name]), sequence(11).requires_grad_()
    reset = torch.zeros(2, 11, dtype=torch.bool)
    reset[1, 6] = True
    y, state = module(x, None, Flow(reset=reset))
    slow, heads = loops(module, x, reset)
    assert_same(module, y, slow, x)
    assert_same_state(module, state, heads)


@pytest.mark.parametrize("period", [1, 5])
@pytest.mark.parametrize("decay_to", ["init", "zero"])
def test_linear_memory_reduces_to_gated_linear_attention(period, decay_to):
    """y = q + W q, W <- alpha W + eta v k^T: the anchor does not matter."""
    module, x = build(DLA, layers=1, period=period, decay_to=decay_to), sequence(13)
    rows, _ = module.project(x, module.convolution.init_tail(2), Flow())
    q, k, v = (part.transpose(1, 2) for part in rows[:3])
    eta, alpha = rows.gates["eta"].mT, rows.gates["alpha"].mT
    start = module.initial_layers[0]
    zero = decay_to == "zero"
    y, state = momentum_gated_delta_rule(
        q, k, eta[..., None] * v, alpha=alpha, initial=start if zero else None
    )
    y = y + q + (0 if zero else torch.einsum("bthi,hoi->btho", q, start))
    read, mine = module(x)
    y = module.norm(y).flatten(2)
    y = module.output(y * torch.nn.functional.silu(module.gate(x)))
    torch.testing.assert_close(read, y, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(mine.weight[0], state.weight, rtol=1e-9, atol=1e-12)


def test_reads_and_weights_stay_bounded():
    options = {"half_life": (16.0, 64.0), "period": 16}
    module = build(DLA, strong=False, hidden_size=16, dtype=torch.float32, **options)
    norms, state = [], None
    with torch.no_grad():
        for part in sequence(1000, batch=1, width=16).float().split(125, dim=1):
            y, state = module(part, state)
            assert y.isfinite().all()
            norms.append(max(float(w.norm()) for w in state.weight))
    assert max(norms[4:]) < 1.3 * max(norms[:4])


def test_state_is_float32_for_a_bfloat16_model():
    module = build(DLA, hidden_size=16).bfloat16()
    y, state = module(sequence(9, width=16).bfloat16())
    assert y.dtype == torch.bfloat16 and y.isfinite().all()
    assert {w.dtype for w in state.weight} == {torch.float32}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": 0}, "layers"),
        ({"decay_to": "one"}, "decay_to"),
        ({"eta_init": 2.0}, "eta_init"),
        ({"epsilon": 0.0}, "epsilon"),
    ],
)
def test_invalid_options_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        DLA.Config(**options)


def test_heads_must_divide_the_width():
    with pytest.raises(UserError, match="multiple of 3 heads"):
        build(DLA, heads=3)
