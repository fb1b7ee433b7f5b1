"""The chunk form equals the fold of the step: output, state and every gradient."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nestling.core.error import UserError
from nestling.ops.selective_scan import OP, selective_scan
from nestling.ops.selective_scan.inputs import rates

CHUNKS = (1, 7, 16, 64)


def both(tokens, chunk_size, *, rate=None, state=None, reset=None, mask=None):
    """Outputs, states and gradients of both forms for the same random cotangents."""
    size = {"channels": tokens["w"].shape[-1], "states": tokens["k"].shape[-1]}
    rate = rates(**size) if rate is None else rate
    results = []
    for form in ("chunk", "sequential"):
        leaves = {n: x.clone().requires_grad_() for n, x in tokens.items()}
        own = rate.clone().requires_grad_()
        begun = None if state is None else state.clone().requires_grad_()
        if form == "chunk":
            flags = {"reset": reset, "mask": mask, "chunk_size": chunk_size}
            y, end = selective_scan(**leaves, rate=own, state=begun, **flags)
        else:
            flags = {n: x for n, x in (("reset", reset), ("mask", mask)) if x is not None}
            y, end = OP.sequential(leaves | flags, state=begun, rate=own)
        generator = torch.Generator().manual_seed(1)
        loss = sum(
            (x * torch.randn(x.shape, generator=generator, dtype=x.dtype)).sum() for x in (y, end)
        )
        wanted = leaves | {"rate": own} | ({} if begun is None else {"state": begun})
        found = {"y": y, "end": end}
        if loss.requires_grad:
            grads = torch.autograd.grad(loss, list(wanted.values()), allow_unused=True)
            found |= {n: g for n, g in zip(wanted, grads, strict=True) if g is not None}
        results.append(found)
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
    shape = (len(tokens["w"]), tokens["k"].shape[-1], tokens["w"].shape[-1])
    return torch.randn(shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("chunk_size", [*CHUNKS, None])
@pytest.mark.parametrize("length", ["0", "1", "C-1", "C", "C+1", "37", "300"])
def test_chunk_equals_fold_of_step(chunk_size, length):
    unit = chunk_size or 16
    count = {"C-1": unit - 1, "C": unit, "C+1": unit + 1}.get(length)
    count = int(length) if count is None else count
    size = {"batch": 1, "channels": 2, "states": 2} if count > 100 else {}
    tokens = OP.inputs(0, length=count, **size)
    if count == 0:
        y, end = selective_scan(**tokens, rate=rates(), state=state_of(tokens))
        assert y.shape == tokens["w"].shape and torch.equal(end, state_of(tokens))
        return
    assert_equal(*both(tokens, chunk_size, state=state_of(tokens)))


@pytest.mark.parametrize("begun", [True, False])
@pytest.mark.parametrize("chunk_size", CHUNKS)
def test_resets_and_masks(begun, chunk_size):
    tokens = OP.inputs(3)
    generator = torch.Generator().manual_seed(5)
    reset = torch.rand(2, 37, generator=generator) < 0.12
    mask = torch.rand(2, 37, generator=generator) < 0.7
    state = state_of(tokens) if begun else None
    for flags in ({"reset": reset}, {"mask": mask}, {"reset": reset, "mask": mask}):
        assert_equal(*both(tokens, chunk_size, state=state, **flags))


drawn_steps = st.one_of(st.sampled_from([0.0, 5e-324, 1e-30, 800.0]), st.floats(0.0, 50.0))


@settings(max_examples=40, deadline=None)
@given(data=st.data(), length=st.integers(1, 12), chunk_size=st.sampled_from(CHUNKS))
def test_random_step_sizes_from_no_decay_to_full_decay(data, length, chunk_size):
    tokens = OP.inputs(data.draw(st.integers(0, 99)), batch=1, length=length, channels=2, states=3)
    drawn = data.draw(st.lists(drawn_steps, min_size=2 * length, max_size=2 * length))
    tokens["delta"] = torch.tensor(drawn, dtype=torch.float64).view(1, length, 2)
    assert_equal(*both(tokens, chunk_size, state=state_of(tokens)))


def test_gradcheck_of_every_input_and_state():
    tokens = OP.inputs(7, batch=1, length=5, channels=2, states=2)
    names = list(tokens)
    reset = torch.tensor([[False, False, False, True, False]])
    mask = torch.tensor([[True, False, True, True, True]])

    def run(state, rate, *values):
        given = dict(zip(names, values, strict=True))
        return selective_scan(**given, rate=rate, state=state, reset=reset, mask=mask, chunk_size=3)

    values = (state_of(tokens), rates(channels=2, states=2), *tokens.values())
    assert torch.autograd.gradcheck(run, [x.requires_grad_() for x in values], atol=1e-7)


def test_masked_nans_change_nothing():
    tokens = OP.inputs(2, length=9)
    state = state_of(tokens)
    mask = torch.zeros(2, 9, dtype=torch.bool)
    for name in ("w", "delta"):
        tokens[name] = torch.full_like(tokens[name], float("nan"))
    y, end = selective_scan(**tokens, rate=rates(), state=state, mask=mask)
    assert torch.equal(end, state) and torch.isfinite(y).all()


def test_float32_long_sequences_with_strong_and_weak_decay():
    """Sixteen rates, steps from 0.001 to 20: the decay of one chunk spans 10^-2000 to 1."""
    tokens = OP.inputs(4, batch=1, length=4096, channels=3, states=16)
    tokens["delta"] = 0.001 * 20000 ** torch.rand(1, 4096, 3).double()
    rate = rates(channels=3, states=16)
    exact, exact_end = selective_scan(**tokens, rate=rate)
    y, end = selective_scan(**{n: x.float() for n, x in tokens.items()}, rate=rate.float())
    for got, want in ((y, exact), (end, exact_end)):
        assert torch.isfinite(got).all()
        assert (got - want).norm() / want.norm() < 1e-5


def test_bfloat16_inputs_keep_a_float32_state_under_autocast():
    tokens = {n: x.bfloat16() for n, x in OP.inputs(4, length=33).items()}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, end = selective_scan(**tokens, rate=rates().float())
    exact, _ = selective_scan(**{n: x.double() for n, x in tokens.items()}, rate=rates())
    assert y.dtype == torch.bfloat16 and end.dtype == torch.float32
    assert (y.double() - exact).norm() / exact.norm() < 2e-2


def test_peak_memory_holds_one_chunk_of_states():
    """No tensor created in either pass holds more than one chunk's states."""
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            made = [x for x in (out if isinstance(out, tuple) else (out,)) if hasattr(x, "numel")]
            largest = max([largest, *(x.numel() for x in made)])
            return out

    tokens = OP.inputs(0, batch=1, length=512, channels=64, states=16)
    leaves = {n: x.requires_grad_() for n, x in tokens.items()}
    with Watch():
        y, _ = selective_scan(**leaves, rate=rates(channels=64, states=16), chunk_size=32)
        y.sum().backward()
    assert 32 * 64 * 16 <= largest <= 36 * 64 * 16


def test_chunk_size_zero_is_refused():
    with pytest.raises(UserError, match="chunk_size"):
        selective_scan(**OP.inputs(0, length=2), rate=rates(), chunk_size=0)
