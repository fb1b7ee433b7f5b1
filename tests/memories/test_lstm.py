"""The LSTM against torch and against its equations token by token."""

import pytest
import torch
from tolerances import assert_close
from torch import nn

from nestling.core.memory import Flow
from nestling.memories.lstm import LSTM, LSTMState

WIDTH = 6


def build(dtype: torch.dtype = torch.float64) -> LSTM:
    memory = LSTM(LSTM.Config(), hidden_size=WIDTH, num_heads=2).to(dtype)
    generator = torch.Generator().manual_seed(0)
    memory.init_weights(generator)
    with torch.no_grad():
        # gates far from the middle, so that a wrong one shows
        for parameter in memory.parameters():
            parameter.normal_(std=0.8, generator=generator)
    return memory


def text(*shape: int, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def in_loops(memory: LSTM, x: torch.Tensor, reset: torch.Tensor, mask: torch.Tensor):
    """One row and one token at a time; outputs and the last hidden and cell of each row."""
    rows, last = [], []
    for b in range(len(x)):
        h = c = torch.zeros(WIDTH, dtype=x.dtype)
        outputs = []
        for t in range(x.shape[1]):
            if reset[b, t]:
                h, c = torch.zeros_like(h), torch.zeros_like(c)
            if mask[b, t]:
                made = memory.input(x[b, t]) + memory.recurrent(h)
                i, f, g, o = made.view(4, WIDTH)
                c = f.sigmoid() * c + i.sigmoid() * g.tanh()
                h = o.sigmoid() * c.tanh()
            outputs.append(memory.output(h))
        rows.append(torch.stack(outputs))
        last.append((h, c))
    return torch.stack(rows), LSTMState(*(torch.stack(s) for s in zip(*last, strict=True)))


def test_matches_torch_lstm():
    memory, x = build(), text(3, 29, WIDTH).requires_grad_()
    torchs = nn.LSTM(WIDTH, WIDTH, batch_first=True).double()
    with torch.no_grad():
        torchs.weight_ih_l0.copy_(memory.input.weight)
        torchs.weight_hh_l0.copy_(memory.recurrent.weight)
        torchs.bias_ih_l0.copy_(memory.input.bias)
        torchs.bias_hh_l0.zero_()
    begun = text(2, 3, WIDTH, seed=2)
    y, state = memory(x, LSTMState(*begun))
    h, (hidden, cell) = torchs(x, tuple(begun[:, None]))
    expected = memory.output(h)
    assert_close(y, expected)
    assert_close(state.hidden, hidden[0])
    assert_close(state.cell, cell[0])
    cotangent = text(*y.shape, seed=3)
    inner = (memory.input.weight, memory.recurrent.weight, memory.input.bias)
    got = torch.autograd.grad((y * cotangent).sum(), (x, *inner))
    theirs = (torchs.weight_ih_l0, torchs.weight_hh_l0, torchs.bias_ih_l0)
    want = torch.autograd.grad((expected * cotangent).sum(), (x, *theirs))
    for a, b in zip(got, want, strict=True):
        assert_close(a, b)


@pytest.mark.parametrize("kept", [1.0, 0.6])
def test_matches_equations_token_by_token(kept):
    """With resets and masks anywhere; outputs, state and every gradient."""
    memory, x = build(), text(2, 23, WIDTH).requires_grad_()
    generator = torch.Generator().manual_seed(4)
    reset = torch.rand(2, 23, generator=generator) < 0.15
    mask = torch.rand(2, 23, generator=generator) < kept
    y, state = memory(x, None, Flow(reset, mask))
    expected, last = in_loops(memory, x, reset, mask)
    assert_close(y[mask], expected[mask])
    assert_close(torch.stack(state), torch.stack(last))
    wanted = (x, *memory.parameters())
    cotangent = text(2, 23, WIDTH, seed=5) * mask[..., None]
    results = [
        torch.autograd.grad((o * cotangent).sum() + sum(s.sum() for s in end), wanted)
        for o, end in ((y, state), (expected, last))
    ]
    for a, b in zip(*results, strict=True):
        assert b.abs().max() > 0
        assert_close(a, b)


def test_state_stays_float32_under_autocast_and_in_bfloat16():
    exact, x = build(), text(2, 40, WIDTH)
    rounded = build(torch.float32).bfloat16()
    exact.load_state_dict({n: p.double() for n, p in rounded.state_dict().items()})
    x = x.bfloat16()
    y, state = rounded(x)
    assert y.dtype == torch.bfloat16 and state.cell.dtype == state.hidden.dtype == torch.float32
    assert_close(state.cell, exact(x.double())[1].cell.float())
    narrow = build(torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        _, inside = narrow(x.float())
    assert torch.equal(inside.cell, narrow(x.float())[1].cell)
