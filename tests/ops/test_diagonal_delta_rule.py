"""The chunk form equals the fold of the step: output, state and every gradient."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tolerances import assert_close

from nestling.core.error import UserError
from nestling.ops.diagonal_delta_rule import OP, DiagonalState, diagonal_delta_rule
from nestling.ops.momentum_gated_delta_rule import momentum_gated_delta_rule

CHUNKS = (1, 7, 16, 64)


def both(tokens, chunk_size, *, state=None, reset=None, mask=None):
    """Outputs, states and gradients of both forms for the same random cotangents."""
    results = []
    for form in ("chunk", "sequential"):
        leaves = {n: x.clone().requires_grad_() for n, x in tokens.items()}
        begun = None
        if state is not None:
            begun = DiagonalState(state.weight.clone().requires_grad_())
        if form == "chunk":
            y, end = diagonal_delta_rule(
                **leaves, state=begun, reset=reset, mask=mask, chunk_size=chunk_size
            )
        else:
            flags = {n: x for n, x in (("reset", reset), ("mask", mask)) if x is not None}
            y, end = OP.sequential(leaves | flags, state=begun)
        generator = torch.Generator().manual_seed(1)
        loss = sum(
            (x * torch.randn(x.shape, generator=generator, dtype=x.dtype)).sum() for x in (y, *end)
        )
        wanted = leaves if begun is None else leaves | {"weight": begun.weight}
        grads = torch.autograd.grad(loss, list(wanted.values()), allow_unused=True)
        named = {n: g for n, g in zip(wanted, grads, strict=True) if g is not None}
        results.append({"y": y, "weight_end": end.weight} | named)
    return results


def assert_equal(fast, truth):
    for name, want in truth.items():
        got = fast.get(name, torch.zeros_like(want))
        assert torch.isfinite(got).all(), name
        if want.numel():
            scale = want.abs().max().clamp(min=1.0)
            assert (got - want).abs().max() <= 1e-9 * scale, name


def state_of(tokens, seed=9):
    generator = torch.Generator().manual_seed(seed)
    b, _, h, v = tokens["w"].shape
    shape = (b, h, v, tokens["k"].shape[-1])
    return DiagonalState(torch.randn(shape, generator=generator).double())


@pytest.mark.parametrize("chunk_size", CHUNKS)
@pytest.mark.parametrize("length", ["0", "1", "C-1", "C", "C+1", "37", "400"])
def test_chunk_equals_fold_of_step(chunk_size, length):
    count = {"C-1": chunk_size - 1, "C": chunk_size, "C+1": chunk_size + 1}.get(length)
    count = int(length) if count is None else count
    size = {"batch": 1, "heads": 1, "key": 3, "value": 2} if count > 100 else {}
    tokens = OP.inputs(0, length=count, **size)
    assert_equal(*both(tokens, chunk_size, state=state_of(tokens)))


@pytest.mark.parametrize("kept", [1.0, 0.7])
@pytest.mark.parametrize("resets", [True, False])
@pytest.mark.parametrize("chunk_size", CHUNKS)
def test_resets_and_masks(resets, kept, chunk_size):
    tokens = OP.inputs(3, length=37)
    generator = torch.Generator().manual_seed(5)
    reset = torch.rand(2, 37, generator=generator) < 0.12
    mask = torch.rand(2, 37, generator=generator) < kept
    fast, truth = both(
        tokens, chunk_size, state=state_of(tokens), reset=reset if resets else None, mask=mask
    )
    assert_equal(fast, truth)


# the lowest sums to -80 over 16 tokens, the least that the op takes
logarithms = st.one_of(st.sampled_from([0.0, -5.0, -math.exp(-0.5), -1e-30]), st.floats(-5.0, 0.0))


@settings(max_examples=40, deadline=None)
@given(data=st.data(), length=st.integers(1, 20), chunk_size=st.sampled_from((1, 7, 16)))
def test_random_decays_up_to_the_strongest(data, length, chunk_size):
    tokens = OP.inputs(data.draw(st.integers(0, 99)), batch=1, heads=1, length=length, key=2)
    drawn = data.draw(st.lists(logarithms, min_size=2 * length, max_size=2 * length))
    tokens["log_alpha"] = torch.tensor(drawn, dtype=torch.float64).view(1, length, 1, 2)
    reset = data.draw(st.lists(st.booleans(), min_size=length, max_size=length))
    assert_equal(*both(tokens, chunk_size, state=state_of(tokens), reset=torch.tensor([reset])))


def test_gradcheck_of_every_input_and_state():
    tokens = OP.inputs(7, batch=1, length=5, heads=1, key=2, value=2)
    reset = torch.tensor([[False, False, False, True, False]])
    mask = torch.tensor([[True, False, True, True, True]])
    names = list(tokens)

    def run(weight, *values):
        y, end = diagonal_delta_rule(
            **dict(zip(names, values, strict=True)),
            state=DiagonalState(weight),
            reset=reset,
            mask=mask,
            chunk_size=2,
        )
        return y, end.weight

    values = [x.requires_grad_() for x in (*state_of(tokens), *tokens.values())]
    assert torch.autograd.gradcheck(run, values, atol=1e-7)


def test_masked_positions_change_nothing():
    tokens = OP.inputs(2, length=9)
    state = state_of(tokens)
    mask = torch.zeros(2, 9, dtype=torch.bool)
    y, end = diagonal_delta_rule(**tokens, state=state, mask=mask)
    assert torch.equal(end.weight, state.weight)
    assert torch.isfinite(y).all()


@pytest.mark.parametrize("floor", [-0.6, -5.0])
def test_float32_over_4096_tokens_with_equal_keys(floor):
    """States stay bounded, and the strongest decay loses no precision."""
    tokens = OP.inputs(4, length=4096, heads=1, floor=floor)
    tokens |= {n: tokens[n][:, :1].expand_as(tokens[n]) for n in ("k", "erase_key", "eraser")}
    exact, end = diagonal_delta_rule(**tokens)
    y, rounded = diagonal_delta_rule(**{n: x.float() for n, x in tokens.items()})
    assert end.weight.abs().max() < 100
    assert_close(y, exact)
    assert_close(rounded.weight, end.weight)
    strongest = tokens | {"log_alpha": torch.full_like(tokens["log_alpha"], floor)}
    exact, _ = diagonal_delta_rule(**strongest)
    assert_close(diagonal_delta_rule(**{n: x.float() for n, x in strongest.items()})[0], exact)


def test_bfloat16_inputs_keep_a_float32_state_under_autocast():
    tokens = {n: x.bfloat16() for n, x in OP.inputs(4, length=33).items()}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, end = diagonal_delta_rule(**tokens)
    exact, _ = diagonal_delta_rule(**{n: x.double() for n, x in tokens.items()})
    assert y.dtype == torch.bfloat16 and end.weight.dtype == torch.float32
    assert_close(y, exact)


def test_equal_decays_reduce_to_gated_delta_rule():
    tokens = OP.inputs(11, length=40)
    k, w = tokens["k"], tokens["w"]
    log_alpha = tokens["log_alpha"][..., :1]
    beta = torch.sigmoid(w[..., 0])
    y, end = diagonal_delta_rule(
        tokens["q"],
        k,
        w,
        log_alpha=log_alpha.expand_as(k),
        erase_key=k,
        eraser=beta[..., None] * k,
    )
    alpha = log_alpha[..., 0].exp()
    expected, state = momentum_gated_delta_rule(tokens["q"], k, w, alpha=alpha, beta=beta)
    assert_close(y, expected)
    assert_close(end.weight, state.weight)


def test_without_eraser_reduces_to_gated_linear_attention():
    tokens = OP.inputs(12, length=40)
    tokens["eraser"] = torch.zeros_like(tokens["eraser"])
    y, _ = diagonal_delta_rule(**tokens)
    total = tokens["log_alpha"].cumsum(1)
    for t in (0, 17, 39):
        left = torch.exp(total[:, t : t + 1] - total[:, : t + 1])
        score = (tokens["q"][:, t : t + 1] * left * tokens["k"][:, : t + 1]).sum(-1)
        assert_close(y[:, t], (score[..., None] * tokens["w"][:, : t + 1]).sum(1))


def test_invalid_chunk_size_is_refused():
    with pytest.raises(UserError, match="chunk_size"):
        diagonal_delta_rule(**OP.inputs(0, length=2), chunk_size=0)
