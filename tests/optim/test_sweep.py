"""The compiled pass over many tensors against the torch reference."""

import pytest
import torch
from tolerances import assert_close
from torch import nn

from nestling.core import native
from nestling.optim import DeltaMomentum, sweep
from nestling.optim.base import finite, lengths

compiled = pytest.mark.skipif(not sweep.available(), reason="no C++ compiler here")
SHAPES = [(3, 1033), (5, 3, 7, 2), (70001,), (), (1, 9), (41, 1), (2, 33000)]
# decay strong enough to show, and not so strong that it explodes
OPTIONS = {
    "unit": {"decay_norm": "unit", "eta_decay": 0.5},
    "soft": {"decay_norm": "soft", "eta_decay": 0.5},
    "clamp": {"decay_norm": "clamp", "eta_decay": 1e-4},
    "none": {"decay_norm": "none", "eta_decay": 1e-6},
    "no decay": {"eta_decay": 0.0},
    "weights decay": {"weight_decay": 0.3, "maximize": True},
    "not looked at": {"nonfinite": "ignore"},
}


def run(optimizer_options, dtype, *, shapes=SHAPES, steps=3, change=lambda p: p):
    """All weights and states after some steps on random gradients."""
    generator = torch.Generator().manual_seed(0)

    def draw(shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    parameters = [nn.Parameter(change(draw(shape))) for shape in shapes]
    optimizer = DeltaMomentum(parameters, lr=0.1, **optimizer_options)
    for _ in range(steps):
        for parameter in parameters:
            parameter.grad = draw(parameter.shape)
        optimizer.step()
    kept = [p.detach() for p in parameters] + [optimizer.state[p]["m"] for p in parameters]
    return torch.cat([x.flatten() for x in kept])


def calls(monkeypatch):
    """The number of tensors the compiled pass wrote in each call."""
    seen, write = [], sweep.write

    def counted(parameters, *rest, **more):
        seen.append(len(parameters))
        write(parameters, *rest, **more)

    monkeypatch.setattr(sweep, "write", counted)
    return seen


@compiled
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("layout", ["scalar", "row", "matrix"])
@pytest.mark.parametrize("options", OPTIONS)
def test_matches_torch_implementation(options, layout, dtype, monkeypatch):
    given, seen = OPTIONS[options] | {"layout": layout}, calls(monkeypatch)
    ours = run(given, dtype)
    vectors = sum(len(shape) < 2 for shape in SHAPES)
    assert seen == [vectors if layout == "matrix" else len(SHAPES)] * 3
    monkeypatch.setenv(native.SWITCH, "0")
    assert_close(ours, run(given, dtype))
    assert len(seen) == 3


@compiled
def test_bitwise_equal_for_any_thread_count():
    found, threads = [], torch.get_num_threads()
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        found.append(run({"layout": "row"}, torch.float32))
        found.append(run({"layout": "scalar"}, torch.float32))
    torch.set_num_threads(threads)
    for one, two in zip(found, found[2:], strict=False):
        assert torch.equal(one, two)


@compiled
@pytest.mark.parametrize(
    ("dtype", "change"),
    [
        (torch.bfloat16, lambda x: x),
        (torch.float64, lambda x: x.T.contiguous().T if x.ndim == 2 else x),
    ],
)
def test_unsupported_inputs_fall_back_to_torch(dtype, change, monkeypatch):
    shapes, seen = [(6, 4), (5,)], calls(monkeypatch)
    ours = run({}, dtype, shapes=shapes, change=change)
    assert seen == ([] if dtype == torch.bfloat16 else [1] * 3)
    monkeypatch.setenv(native.SWITCH, "0")
    assert_close(ours.float(), run({}, dtype, shapes=shapes, change=change).float())


@compiled
def test_wide_rows_fall_back_to_torch(monkeypatch):
    seen = calls(monkeypatch)
    monkeypatch.setattr(sweep, "WIDEST", 3)
    run({}, torch.float64, shapes=[(6, 4), (6, 3)])
    assert seen == [1] * 3


@compiled
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_squares_match_each_gradient(dtype):
    generator = torch.Generator().manual_seed(0)
    gradients = [torch.randn(n, generator=generator, dtype=dtype) for n in (0, 1, 7, 32, 33, 70001)]
    want = torch.stack([g.double().square().sum() for g in gradients])
    assert_close(sweep.squares(gradients).to(dtype), want.to(dtype))


@compiled
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_nonfinite_value_is_found_at_any_position(value):
    for place in range(75):
        gradient = torch.ones(75)
        assert finite([gradient], lengths([gradient]))
        gradient[place] = value
        assert not finite([gradient], lengths([gradient]))


@compiled
def test_in_place_update_bumps_version_counter():
    weight = nn.Parameter(torch.ones(4, 4))
    optimizer = DeltaMomentum([weight])
    loss = (weight @ weight).sum()
    loss.backward(retain_graph=True)
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
