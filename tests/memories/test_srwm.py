"""The self-referential weight matrix against its equations, token by token."""

import pytest
import torch
from tolerances import assert_close

from nestling.core.error import UserError
from nestling.core.memory import Flow
from nestling.memories.srwm import SRWM, STRETCH, SRWMState

WIDTH, HEADS = 8, 2


def build(**options) -> SRWM:
    memory = SRWM(SRWM.Config(**options), hidden_size=WIDTH, num_heads=HEADS).double()
    generator = torch.Generator().manual_seed(0)
    memory.init_weights(generator)
    with torch.no_grad():
        # peaked keys and strong writes, so that a wrong one shows
        memory.initial_weight.normal_(std=3.0, generator=generator)
        memory.output.weight.normal_(generator=generator)
    return memory


def text(*shape: int, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def in_loops(memory: SRWM, x: torch.Tensor, reset: torch.Tensor, mask: torch.Tensor):
    """One row, head, token and part of the matrix at a time, as in the paper."""
    size = WIDTH // HEADS
    rows, ends = [], []
    for b in range(len(x)):
        heads, last = [], []
        for h in range(HEADS):
            initial = memory.initial_weight[h].split([size, size, size, 4])
            parts, outputs = list(initial), []
            for t in range(x.shape[1]):
                if reset[b, t]:
                    parts = list(initial)
                features = x[b, t, h * size : (h + 1) * size]
                if memory.config.input_softmax:
                    features = torch.softmax(features, 0)
                y, q, k, beta = (part @ features for part in parts)
                outputs.append(y)
                if mask[b, t]:
                    phi_k, phi_q = torch.softmax(k, 0), torch.softmax(q, 0)
                    for index, part in enumerate(parts):
                        old, new = part @ phi_k, part @ phi_q
                        rate = torch.sigmoid(beta[index])
                        parts[index] = part + rate * torch.outer(new - old, phi_k)
            heads.append(torch.stack(outputs))
            last.append(torch.cat(parts) - memory.initial_weight[h])
        rows.append(memory.output(torch.cat(heads, -1)))
        ends.append(torch.stack(last))
    return torch.stack(rows), SRWMState(torch.stack(ends))


@pytest.mark.parametrize(("kept", "input_softmax"), [(1.0, True), (0.7, True), (0.7, False)])
def test_matches_equations_token_by_token(kept, input_softmax):
    """Outputs, state and every gradient, across recomputed stretches."""
    length = STRETCH + 7
    memory, x = build(input_softmax=input_softmax), text(2, length, WIDTH).requires_grad_()
    generator = torch.Generator().manual_seed(4)
    reset = torch.rand(2, length, generator=generator) < 0.08
    mask = torch.rand(2, length, generator=generator) < kept
    y, state = memory(x, None, Flow(reset, mask))
    expected, last = in_loops(memory, x, reset, mask)
    assert_close(y[mask], expected[mask])
    assert_close(state.deviation, last.deviation)
    wanted = (x, *memory.parameters())
    cotangent = text(2, length, WIDTH, seed=5) * mask[..., None]
    weights = text(*last.deviation.shape, seed=6)
    results = [
        torch.autograd.grad((o * cotangent).sum() + (s.deviation * weights).sum(), wanted)
        for o, s in ((y, state), (expected, last))
    ]
    for a, b in zip(*results, strict=True):
        assert b.abs().max() > 0
        assert_close(a, b)


def test_each_part_has_its_own_write_rate():
    memory, x = build(), text(1, 1, WIDTH)
    with torch.no_grad():
        memory.initial_weight[:, -4:] = -1e4
        for index, rows in enumerate((slice(0, 4), slice(4, 8), slice(8, 12), slice(12, 16))):
            memory.initial_weight[:, -4 + index] = 1e4
            written = memory(x)[1].deviation.abs().amax((0, 1, 3)) > 0
            memory.initial_weight[:, -4 + index] = -1e4
            # rows of equal entries give the same output for q and k, so the rates write nothing
            expected = torch.zeros(16, dtype=torch.bool)
            expected[rows] = index < 3
            assert torch.equal(written, expected)


def test_the_width_must_split_into_heads():
    with pytest.raises(UserError, match="multiple of 3 heads"):
        SRWM(SRWM.Config(), hidden_size=8, num_heads=3)
