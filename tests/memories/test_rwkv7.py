"""RWKV-7's time mixing against the paper's equations, token by token."""

import math

import pytest
import torch
from tolerances import assert_close

from nestling.core.error import UserError
from nestling.core.memory import Flow
from nestling.memories.rwkv7 import RWKV7, shift

WIDTH, HEADS, SIZE = 8, 2, 4


def build(dtype: torch.dtype = torch.float64) -> RWKV7:
    memory = RWKV7(RWKV7.Config(decay_rank=3, gate_rank=5), hidden_size=WIDTH, num_heads=HEADS)
    generator = torch.Generator().manual_seed(0)
    memory.init_weights(generator)
    with torch.no_grad():
        # far from what they start at, so that a wrong one shows
        for parameter in memory.parameters():
            parameter.normal_(std=0.7, generator=generator)
    return memory.to(dtype)


def text(*shape: int, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def token(m: RWKV7, x, before, states):
    """One token of one row, with the paper's letters; vectors are rows."""

    def lerp(name):
        return x + (before - x) * m.mix[name]

    def split(z):
        return z.view(HEADS, SIZE)

    r, k, v = (getattr(m, name).weight @ lerp(name) for name in ("query", "key", "value"))
    d = torch.tanh(lerp("decay") @ m.decay.down) @ m.decay.up + m.decay_bias
    w = torch.exp(-math.exp(-0.5) * torch.sigmoid(d))
    a = torch.sigmoid(lerp("rate") @ m.rate.down @ m.rate.up + m.rate_bias)
    g = torch.sigmoid(lerp("gate") @ m.gate.down) @ m.gate.up
    kappa = k * m.erase_scale
    k_tilde = k * ((1 - m.key_rate) + m.key_rate * a)
    new, outputs = [], []
    for h in range(HEADS):
        r_h, w_h, a_h, v_h, k_h = (split(z)[h] for z in (r, w, a, v, k_tilde))
        hat = split(kappa)[h] / split(kappa)[h].norm()
        transition = torch.diag(w_h) - torch.outer(hat, a_h * hat)
        state = states[h] @ transition + torch.outer(v_h, k_h)
        p = state @ r_h
        p = (p - p.mean()) / torch.sqrt(p.var(correction=0) + 64e-5)
        p = p * split(m.norm_weight)[h] + split(m.norm_bias)[h]
        u = (r_h * split(m.bonus)[h] * k_h).sum() * v_h
        new.append(state)
        outputs.append(p + u)
    return m.output.weight @ (g * torch.cat(outputs)), new


def in_loops(memory: RWKV7, x: torch.Tensor, reset: torch.Tensor, mask: torch.Tensor):
    """Outputs of every row, and the final matrices."""
    rows, ends = [], []
    for b in range(len(x)):
        empty = torch.zeros(SIZE, SIZE, dtype=x.dtype)
        before, states, outputs = torch.zeros_like(x[b, 0]), [empty] * HEADS, []
        for t in range(x.shape[1]):
            if reset[b, t]:
                before, states = torch.zeros_like(before), [empty] * HEADS
            y = torch.zeros_like(before)
            if mask[b, t]:
                y, states = token(memory, x[b, t], before, states)
                before = x[b, t]
            outputs.append(y)
        rows.append(torch.stack(outputs))
        ends.append(torch.stack(states))
    return torch.stack(rows), torch.stack(ends)


@pytest.mark.parametrize("masked", [False, True])
def test_matches_equations_token_by_token(masked):
    """Outputs, state and every gradient, across chunks, with documents and padding."""
    memory, x = build(), text(2, 37, WIDTH).requires_grad_()
    reset = torch.zeros(2, 37, dtype=torch.bool)
    reset[0, [5, 20]] = reset[1, [16]] = True
    mask = torch.ones(2, 37, dtype=torch.bool)
    if masked:
        mask[0, 13:20] = mask[1, 10:16] = mask[1, 34:] = False
    y, state = memory(x, None, Flow(reset, mask if masked else None))
    expected, ends = in_loops(memory, x, reset, mask)
    assert_close(y[mask], expected[mask])
    assert_close(state.weight, ends)
    wanted = (x, *memory.parameters())
    cotangent = text(2, 37, WIDTH, seed=5) * mask[..., None]
    weights = text(*ends.shape, seed=6)
    results = [
        torch.autograd.grad((o * cotangent).sum() + (s * weights).sum(), wanted)
        for o, s in ((y, state.weight), (expected, ends))
    ]
    for got, want in zip(*results, strict=True):
        assert want.abs().max() > 0
        assert (got - want).norm() <= 1e-9 * want.norm()


def test_token_shift_does_not_cross_documents_or_padding():
    x = torch.arange(1.0, 7.0).view(1, 6, 1)
    last = torch.tensor([[9.0]])
    before, after = shift(x, last)
    assert before.flatten().tolist() == [9, 1, 2, 3, 4, 5] and after.item() == 6
    reset = torch.tensor([[False, False, True, False, False, False]])
    mask = torch.tensor([[True, False, True, True, False, False]])
    before, after = shift(x, last, Flow(reset, mask))
    assert before[mask[..., None]].tolist() == [9, 0, 3] and after.item() == 4
    reset[0, 4] = True
    assert shift(x, last, Flow(reset, mask))[1].item() == 0
    nothing = torch.zeros(1, 6, dtype=torch.bool)
    assert shift(x, last, Flow(mask=nothing))[1].item() == 9


def test_half_lives_spread_over_channels_at_initialisation():
    memory = RWKV7(RWKV7.Config(), hidden_size=256, num_heads=4)
    memory.init_weights(torch.Generator().manual_seed(0))
    log_alpha = -math.exp(-0.5) * torch.sigmoid(memory.decay_bias)
    half_lives = math.log(2.0) / -log_alpha
    assert half_lives.min() < 1.5 and half_lives.max() > 1000


def test_state_stays_float32_under_autocast_and_in_bfloat16():
    x = text(2, 40, WIDTH)
    y, state = build(torch.bfloat16)(x.bfloat16())
    assert y.dtype == torch.bfloat16 and state.weight.dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert build(torch.float32)(x.float())[1].weight.dtype == torch.float32


def test_invalid_options_are_refused():
    with pytest.raises(UserError, match="multiple of 3 heads"):
        RWKV7(RWKV7.Config(), hidden_size=8, num_heads=3)
    with pytest.raises(UserError, match="rwkv7.gate_rank"):
        RWKV7.Config(gate_rank=0)
