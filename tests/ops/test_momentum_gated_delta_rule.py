"""The chunk form equals the fold of the step: output, state and every gradient."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from nestling.core.error import UserError
from nestling.ops.momentum_gated_delta_rule import (
    OP,
    DeltaState,
    compiled,
    momentum_gated_delta_rule,
)

CHUNKS = (1, 7, 16, 64)


def both(tokens, chunk_size, *, state=None, initial=None, reset=None, mask=None, read="post"):
    """Outputs, states and gradients of both forms for the same random cotangents."""
    results = []
    for form in ("chunk", "sequential"):
        leaves = {n: x.clone().requires_grad_() for n, x in tokens.items()}
        begun = None
        extra = {}
        if state is not None:
            begun = DeltaState(*(x.clone().requires_grad_() for x in state))
            extra |= dict(zip(("weight", "momentum"), begun, strict=True))
        base = None if initial is None else initial.clone().requires_grad_()
        if base is not None:
            extra["initial"] = base
        if form == "chunk":
            y, end = momentum_gated_delta_rule(
                **leaves,
                state=begun,
                initial=base,
                reset=reset,
                mask=mask,
                read=read,
                chunk_size=chunk_size,
            )
        else:
            flags = {n: x for n, x in (("reset", reset), ("mask", mask)) if x is not None}
            y, end = OP.sequential(leaves | flags, state=begun, initial=base, read=read)
        generator = torch.Generator().manual_seed(1)
        loss = sum(
            (x * torch.randn(x.shape, generator=generator, dtype=x.dtype)).sum() for x in (y, *end)
        )
        wanted = leaves | extra
        grads = torch.autograd.grad(loss, list(wanted.values()), allow_unused=True)
        named = {n: g for n, g in zip(wanted, grads, strict=True) if g is not None}
        results.append({"y": y, "weight_end": end.weight, "momentum_end": end.momentum} | named)
    return results


def assert_equal(fast, truth):
    for name, want in truth.items():
        got = fast.get(name, torch.zeros_like(want))
        scale = want.abs().max().clamp(min=1.0) if want.numel() else 1.0
        assert torch.isfinite(got).all(), name
        if want.numel():
            assert (got - want).abs().max() <= 1e-9 * scale, name


def state_of(tokens, seed=9):
    generator = torch.Generator().manual_seed(seed)
    b, _, h, v = tokens["w"].shape
    shape = (b, h, v, tokens["k"].shape[-1])
    return DeltaState(*(torch.randn(shape, generator=generator).double() for _ in range(2)))


@pytest.mark.parametrize("chunk_size", CHUNKS)
@pytest.mark.parametrize("length", ["0", "1", "C-1", "C", "C+1", "37", "300"])
def test_chunk_equals_fold_of_step(chunk_size, length):
    count = {"C-1": chunk_size - 1, "C": chunk_size, "C+1": chunk_size + 1}.get(length)
    count = int(length) if count is None else count
    size = {"batch": 1, "heads": 1, "key": 3, "value": 2} if count > 100 else {}
    tokens = OP.inputs(0, length=count, **size)
    state = state_of(tokens)
    assert_equal(*both(tokens, chunk_size, state=state, initial=state.momentum[0]))


@pytest.mark.parametrize("read", ["post", "pre"])
@pytest.mark.parametrize("momentum", [True, False])
@pytest.mark.parametrize("erase_key", [True, False])
@pytest.mark.parametrize("chunk_size", CHUNKS)
def test_every_option_with_resets_and_masks(read, momentum, erase_key, chunk_size):
    tokens = OP.inputs(3, length=37, momentum=momentum, erase_key=erase_key)
    generator = torch.Generator().manual_seed(5)
    reset = torch.rand(2, 37, generator=generator) < 0.12
    mask = torch.rand(2, 37, generator=generator) < 0.7
    state = state_of(tokens)
    fast, truth = both(
        tokens, chunk_size, state=state, initial=state.weight[0], reset=reset, mask=mask, read=read
    )
    assert_equal(fast, truth)


@pytest.mark.parametrize("read", ["post", "pre"])
@pytest.mark.parametrize("momentum", [True, False])
@pytest.mark.parametrize("length", [0, 1, 6, 7, 8, 37])
def test_without_an_eraser(read, momentum, length):
    """beta=None: no triangular system, all chunks at once; resets, masks and a shared key."""
    tokens = OP.inputs(3, length=length, momentum=momentum)
    zero = tokens | {"beta": torch.zeros_like(tokens["beta"])}
    del tokens["beta"]
    generator = torch.Generator().manual_seed(5)
    reset = torch.rand(2, length, generator=generator) < 0.12
    mask = torch.rand(2, length, generator=generator) < 0.7
    state = state_of(tokens)
    for flags in ({}, {"reset": reset}, {"mask": mask}, {"reset": reset, "mask": mask}):
        options = {"state": state, "initial": state.weight[0], "read": read} | flags
        fast, truth = both(tokens, 7, **options)
        assert_equal(fast, truth)
        assert_equal(fast, {n: x for n, x in both(zero, 7, **options)[0].items() if n != "beta"})
    shared = tokens | {n: tokens[n][:, :, :1] for n in ("q", "k")}
    assert_equal(*both(shared, 7, state=state, reset=reset, mask=mask, read=read))


def test_shared_key_equals_key_copied_to_each_head():
    tokens = OP.inputs(6, length=20)
    shared = tokens | {n: tokens[n][:, :, :1] for n in ("q", "k")}
    wide = shared | {n: shared[n].expand_as(tokens[n]) for n in ("q", "k")}
    y, end = momentum_gated_delta_rule(**shared, chunk_size=7)
    expected, expected_end = momentum_gated_delta_rule(**wide, chunk_size=7)
    assert (y - expected).abs().max() < 1e-12
    assert (end.weight - expected_end.weight).abs().max() < 1e-12


gates = st.one_of(st.sampled_from([0.0, 1.0, 1e-30, 5e-324]), st.floats(0.0, 1.0))


@settings(max_examples=40, deadline=None)
@given(data=st.data(), length=st.integers(1, 12), chunk_size=st.sampled_from(CHUNKS))
def test_random_gates_including_zero_and_one(data, length, chunk_size):
    tokens = OP.inputs(data.draw(st.integers(0, 99)), batch=1, heads=1, length=length, key=3)
    for name, top in (("alpha", 1.0), ("mu", 1.0), ("beta", 2.0)):
        drawn = data.draw(st.lists(gates, min_size=length, max_size=length))
        tokens[name] = top * torch.tensor(drawn, dtype=torch.float64).view(1, length, 1)
    tokens["beta"] = torch.minimum(tokens["beta"], 1 + tokens["alpha"])
    assert_equal(*both(tokens, chunk_size, state=state_of(tokens)))


def test_gradcheck_of_every_input_and_state():
    tokens = OP.inputs(7, batch=1, length=5, heads=1, key=2, value=2, erase_key=True)
    state = state_of(tokens)
    reset = torch.tensor([[False, False, False, True, False]])
    mask = torch.tensor([[True, False, True, True, True]])
    names = list(tokens)

    def run(weight, momentum, initial, *values):
        y, end = momentum_gated_delta_rule(
            **dict(zip(names, values, strict=True)),
            state=DeltaState(weight, momentum),
            initial=initial,
            reset=reset,
            mask=mask,
            chunk_size=2,
        )
        return y, end.weight, end.momentum

    values = [x.requires_grad_() for x in (*state, state.weight[0].clone(), *tokens.values())]
    assert torch.autograd.gradcheck(run, values, atol=1e-7)


def test_masked_positions_change_nothing():
    tokens = OP.inputs(2, length=9)
    state = state_of(tokens)
    mask = torch.zeros(2, 9, dtype=torch.bool)
    y, end = momentum_gated_delta_rule(**tokens, state=state, mask=mask)
    assert torch.equal(end.weight, state.weight) and torch.equal(end.momentum, state.momentum)
    assert torch.isfinite(y).all()


def test_empty_sequence_returns_initial_state():
    tokens = OP.inputs(2, length=0)
    initial = state_of(tokens).weight[0]
    y, end = momentum_gated_delta_rule(**tokens, initial=initial)
    assert y.shape == tokens["w"].shape
    assert torch.equal(end.weight, initial.expand_as(end.weight))
    assert not end.momentum.any()


def test_equal_keys_stay_bounded_in_float32():
    tokens = OP.inputs(4, length=4096, heads=1, dtype=torch.float32)
    tokens["k"] = tokens["k"][:, :1].expand_as(tokens["k"])
    tokens["mu"] = torch.full_like(tokens["mu"], 0.9)
    tokens["w"] = functional.normalize(tokens["w"], dim=-1) * 0.1 * tokens["beta"][..., None]
    y, end = momentum_gated_delta_rule(**tokens, chunk_size=64)
    exact, _ = momentum_gated_delta_rule(**{n: x.double() for n, x in tokens.items()})
    assert end.weight.abs().max() < 10
    assert (y - exact).norm() / exact.norm() < 1e-5


def test_bfloat16_inputs_keep_a_float32_state_under_autocast():
    tokens = {n: x.bfloat16() for n, x in OP.inputs(4, length=33).items()}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, end = momentum_gated_delta_rule(**tokens)
    exact, _ = momentum_gated_delta_rule(**{n: x.double() for n, x in tokens.items()})
    assert y.dtype == torch.bfloat16 and end.weight.dtype == torch.float32
    assert (y.double() - exact).norm() / exact.norm() < 2e-2


def test_reductions_to_linear_attention_and_delta_rule():
    tokens = OP.inputs(11, length=20, momentum=False)
    q, k, w = tokens["q"], tokens["k"], tokens["w"]
    ones, zeros = torch.ones_like(tokens["alpha"]), torch.zeros_like(tokens["beta"])
    scores = torch.einsum("bthk,bshk->bhts", q, k).tril()
    linear = torch.einsum("bhts,bshv->bthv", scores, w)
    y, _ = momentum_gated_delta_rule(q, k, w, alpha=ones, beta=zeros)
    assert (y - linear).abs().max() < 1e-12
    beta = tokens["beta"]
    y, end = momentum_gated_delta_rule(q, k, beta[..., None] * w, alpha=ones, beta=beta)
    weight = torch.zeros_like(end.weight)
    for t in range(20):
        error = torch.einsum("bhvk,bhk->bhv", weight, k[:, t]) - w[:, t]
        weight = weight - torch.einsum("bh,bhv,bhk->bhvk", beta[:, t], error, k[:, t])
    assert (end.weight - weight).abs().max() < 1e-12


def test_invalid_options_are_refused():
    tokens = OP.inputs(0, length=2)
    with pytest.raises(UserError, match="'post' or 'pre'"):
        momentum_gated_delta_rule(**tokens, read="anchor")
    with pytest.raises(UserError, match="chunk_size"):
        momentum_gated_delta_rule(**tokens, chunk_size=0)
    keyed = OP.inputs(0, length=2, erase_key=True) | {"beta": None}
    with pytest.raises(UserError, match="without beta"):
        momentum_gated_delta_rule(**keyed)


@pytest.mark.skipif(not compiled.available(torch.zeros(1)), reason="no C++ compiler here")
@pytest.mark.parametrize("length", [2, 31, 32, 33, 100])
@pytest.mark.parametrize("eraser", [True, False])
@pytest.mark.parametrize("one_key", [True, False])
@pytest.mark.parametrize("flags", [True, False])
def test_compiled_form_equals_fold_of_step(length, eraser, one_key, flags):
    tokens = OP.inputs(3, length=length)
    del tokens["mu"]
    if not eraser:
        del tokens["beta"]
    if one_key:
        tokens |= {name: tokens[name][:, :, :1] for name in ("q", "k")}
    reset = mask = None
    if flags:
        generator = torch.Generator().manual_seed(4)
        batch = tokens["w"].shape[:2]
        reset = torch.rand(batch, generator=generator) < 0.1
        mask = torch.rand(batch, generator=generator) < 0.8
    # no chunk size given: the compiled form uses its own
    assert_equal(*both(tokens, None, state=state_of(tokens), reset=reset, mask=mask))


@pytest.mark.skipif(not compiled.available(torch.zeros(1)), reason="no C++ compiler here")
def test_compiled_form_handles_gates_of_zero_and_one():
    tokens = OP.inputs(5, length=40)
    del tokens["mu"]
    tokens["alpha"][:, ::3], tokens["alpha"][:, 1::3] = 0, 1
    tokens["beta"][:, ::4] = 0
    assert_equal(*both(tokens, None, state=state_of(tokens)))
