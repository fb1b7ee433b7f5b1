"""AdaTransformer against a reference loop, and without writes."""

import math

import pytest
import torch
from tolerances import assert_close

from nestling.core.error import UserError
from nestling.core.memory import Flow
from nestling.memories.ada_transformer import AdaTransformer
from nestling.memories.attention import Attention

WIDTH, HEADS, SIZE = 12, 2, 4


def build(**options):
    config = AdaTransformer.Config(head_size=SIZE, **options)
    memory = AdaTransformer(config, hidden_size=WIDTH, num_heads=HEADS).double()
    generator = torch.Generator().manual_seed(0)
    memory.init_weights(generator)
    with torch.no_grad():
        # far from uniform attention and from a silent matrix
        for parameter in memory.parameters():
            parameter.add_(0.5 * torch.randn(parameter.shape, generator=generator).double())
    return memory


def text(*shape, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def turned(x, position, theta):
    """Pairs (i, i + half) as complex numbers, turned by the position."""
    half = len(x) // 2
    speed = theta ** -(torch.arange(half, dtype=x.dtype) / half)
    z = torch.complex(x[:half], x[half:]) * torch.polar(torch.ones_like(speed), position * speed)
    return torch.cat((z.real, z.imag))


def in_loops(memory, x):
    """One document [T, D]: attention head by head, then the matrix of all channels."""
    attention = memory.attention
    q, k, v = (x @ m.weight.T for m in (attention.query, attention.key, attention.value))
    M, rows = list(memory.initial_matrix), []
    width = HEADS * SIZE // len(M)
    for t in range(len(x)):
        answers = []
        for h in range(HEADS):
            mine = slice(h * SIZE, (h + 1) * SIZE)
            asked = turned(q[t, mine], t, 10000.0)
            scores = [(turned(k[s, mine], s, 10000.0) @ asked / math.sqrt(SIZE)).exp()
                      for s in range(t + 1)]  # fmt: skip
            answers.append(sum(s * v[i, mine] for i, s in enumerate(scores)) / sum(scores))
        parts = []
        for g, asked in enumerate(torch.cat(answers).split(width)):
            mine = slice(g * width, (g + 1) * width)
            key = k[t, mine] / torch.sqrt(k[t, mine] @ k[t, mine] + 1e-6)
            M[g] = M[g] + memory.rate[g] * torch.outer(v[t, mine], key)
            parts.append(M[g] @ asked)
        y = torch.cat(parts)
        y = y / torch.sqrt(y.square().mean() + 1e-5) * memory.norm.weight
        rows.append(attention.output.weight @ y)
    return torch.stack(rows)


@pytest.mark.parametrize("matrices", [None, 1])
def test_v1_eq21_69_matches_equations_token_by_token(matrices):
    """Outputs and every gradient, across a document start."""
    memory, x = build(matrices=matrices), text(2, 13, WIDTH).requires_grad_()
    reset = torch.zeros(2, 13, dtype=torch.bool)
    reset[1, 5] = True
    y, _ = memory(x, None, Flow(reset=reset))
    second = torch.cat([in_loops(memory, x[1, :5]), in_loops(memory, x[1, 5:])])
    truth = torch.stack([in_loops(memory, x[0]), second])
    assert_close(y, truth)
    wanted = (x, *memory.parameters())
    cotangent = text(2, 13, WIDTH, seed=2)
    grads = [torch.autograd.grad((z * cotangent).sum(), wanted) for z in (y, truth)]
    for got, want in zip(*grads, strict=True):
        assert want.abs().max() > 0
        assert (got - want).norm() <= 1e-9 * want.norm()


@torch.no_grad()
def test_without_writes_equals_transformer_block_with_linear_mlp():
    """The two blocks of Figure 3: the same formula, with one more level in one of them."""
    memory, x = build(matrices=1), text(2, 9, WIDTH)
    memory.rate.zero_()
    plain = Attention(Attention.Config(head_size=SIZE), hidden_size=WIDTH, num_heads=HEADS).double()
    plain.load_state_dict(memory.attention.state_dict())
    attended, _ = plain.mix(x)
    y, state = memory(x)
    assert_close(y, plain.output(memory.norm(attended @ memory.initial_matrix[0].T)))
    assert state.weight.abs().max() == 0


@torch.no_grad()
def test_matrix_carries_context_but_not_across_documents():
    memory, x = build(), text(1, 9, WIDTH)
    after = memory(x)[1].weight
    assert after.abs().max() > 0.01
    reset = torch.ones(1, 1, dtype=torch.bool)
    fresh = memory(x[:, :1])[0]
    assert_close(memory(x[:, :1], memory(x)[1], Flow(reset=reset))[0], fresh)


@pytest.mark.parametrize(("matrices", "word"), [(0, "at least 1"), (3, "do not split into 3")])
def test_invalid_matrices_are_refused(matrices, word):
    with pytest.raises(UserError, match=word):
        build(matrices=matrices)
