"""Attention against an explicit sum, and its options."""

import math

import pytest
import torch
from tolerances import assert_close

from nestling.core.error import UserError
from nestling.core.memory import Flow
from nestling.memories.attention import Attention, rotate

WIDTH, HEADS = 24, 4


def build(**options) -> Attention:
    memory = Attention(Attention.Config(**options), hidden_size=WIDTH, num_heads=HEADS).double()
    memory.init_weights(torch.Generator().manual_seed(0))
    with torch.no_grad():
        # far from uniform weights, so that a wrong one shows
        for parameter in memory.parameters():
            parameter.mul_(20)
    return memory


def text(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def in_loops(memory: Attention, x: torch.Tensor, window: int | None = None) -> torch.Tensor:
    """One row, one head and one query at a time: sum of s(k_i, q) v_i over sum of s."""
    length, size = len(x), memory.head_size
    share = memory.num_heads // memory.num_kv_heads
    positions = torch.arange(length)[None]
    turned = []
    for projection, heads in ((memory.query, memory.num_heads), (memory.key, memory.num_kv_heads)):
        h = projection(x).view(1, length, heads, size)
        turned.append(rotate(h, positions, memory.config.rope_theta)[0])
    (q, k), v = turned, memory.value(x).view(length, -1, size)
    y = torch.zeros(length, memory.num_heads, size, dtype=x.dtype)
    for t in range(length):
        first = 0 if window is None else max(0, t - window + 1)
        for head in range(memory.num_heads):
            keys, values = k[first : t + 1, head // share], v[first : t + 1, head // share]
            score = (keys @ q[t, head] / math.sqrt(size)).exp()
            y[t, head] = (score[:, None] * values).sum(0) / score.sum()
    return memory.output(y.flatten(1))


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("window", [None, 1, 6, 50])
@pytest.mark.parametrize("head_size", [None, 4])
def test_equations_62_63_match_reference_loop(groups, window, head_size):
    memory = build(num_kv_heads=groups, window=window, head_size=head_size)
    x = text(1, 17, WIDTH)
    assert_close(memory(x)[0][0], in_loops(memory, x[0], window))


def test_rotation_makes_scores_relative_and_keeps_lengths():
    x, positions = text(1, 2, 1, 6), torch.tensor([[3, 11]])
    here = rotate(x, positions, 10000.0)
    there = rotate(x, positions + 40, 10000.0)
    score = (here[0, 0, 0] @ here[0, 1, 0]).float()
    torch.testing.assert_close(score, (there[0, 0, 0] @ there[0, 1, 0]).float(), atol=1e-5, rtol=0)
    torch.testing.assert_close(here.norm(dim=-1), x.norm(dim=-1), atol=1e-6, rtol=0)
    assert not torch.allclose(here, x)


def test_positions_count_from_document_start_and_skip_masked_tokens():
    memory, x = build(), text(2, 9, WIDTH)
    reset = torch.zeros(2, 9, dtype=torch.bool)
    reset[0, 4] = True
    mask = torch.ones(2, 9, dtype=torch.bool)
    mask[1, 6:] = False
    state = memory(x, None, Flow(reset, mask))[1]
    assert state.positions[0].tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 4]
    assert state.seen.tolist() == [5, 6]
    assert state.documents[1].tolist() == [0] * 6 + [-1] * 3


def test_keys_outside_every_window_are_dropped():
    memory, x = build(window=4), text(2, 40, WIDTH)
    assert memory(x)[1].keys.shape[1] <= 4
    memory = build()
    reset = torch.zeros(2, 40, dtype=torch.bool)
    reset[:, [10, 30]] = True
    assert memory(x, None, Flow(reset=reset))[1].keys.shape[1] == 10
    reset[1] = False
    assert memory(x, None, Flow(reset=reset))[1].keys.shape[1] == 40


def test_short_convolution_mixes_neighbours_before_keys():
    memory, x = build(short_convolution=True, window=1), text(1, 9, WIDTH)
    other = x.clone()
    other[0, 4] += 1
    moved = (memory(other)[0] - memory(x)[0]).abs().amax(-1)[0] > 1e-12
    assert moved.tolist() == [False] * 4 + [True] * 4 + [False]


@pytest.mark.parametrize(
    ("options", "heads", "word"),
    [
        ({"window": 0}, 4, "window"),
        ({"num_kv_heads": 3}, 4, "num_kv_heads"),
        ({}, 5, "hidden_size"),
        ({}, 8, "even"),
        ({"head_size": 3}, 4, "head_size"),
        ({"head_size": 0}, 4, "head_size"),
    ],
)
def test_invalid_options_are_refused(options, heads, word):
    with pytest.raises(UserError, match=word):
        Attention(Attention.Config(**options), hidden_size=WIDTH, num_heads=heads)
