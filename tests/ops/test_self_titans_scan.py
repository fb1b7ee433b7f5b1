"""The compiled scan of self-modifying Titans against the torch segments, with gradients."""

import pytest
import torch
from tolerances import relative_rms, same_by_threads

from nestling.core import native
from nestling.core.memory import Flow
from nestling.memories.self_titans import SelfTitans
from nestling.ops.self_titans import KERNEL, cut

needs_kernel = pytest.mark.skipif(
    KERNEL.library() is None, reason="no C++ compiler on this machine"
)

CASES = {
    "one period": ({}, 4, None, ()),
    "open period": ({}, 7, None, ()),
    "split inside a period": ({}, 11, 6, ()),
    "split, packed": ({}, 13, 6, ((0, 3), (1, 7), (1, 12))),
    "group of segments": ({"period": 64, "projection_period": 64}, 150, 70, ((0, 99),)),
    "dot, wide": ({"objective": "dot", "memory_hidden": 19}, 9, None, ()),
    "clipped projections": ({"clip": 0.6, "projection_clip": 0.2}, 13, 6, ((1, 7),)),
    "clipped, partial vectors": ({"period": 16, "projection_period": 16, "clip": 0.3}, 70, 41, ()),
}


def build(width, dtype=torch.float64, heads=2, **options):
    """A layer whose gates and writes are far from their limits."""
    config = SelfTitans.Config(**{"period": 4, "projection_period": 4, **options})
    module = SelfTitans(config, hidden_size=heads * width, num_heads=heads)
    generator = torch.Generator().manual_seed(0)
    module.init_weights(generator)
    with torch.no_grad():
        module.projection.weight.normal_(0, 0.5, generator=generator)
        module.eta_bias.fill_(0)
        module.alpha_bias.fill_(1)
        for weight in (module.eta_weight, module.alpha_weight, module.output.weight):
            weight.normal_(0, 0.7, generator=generator)
        module.initial_second.normal_(0, 0.3, generator=generator)
    return module.to(dtype)


def everything(module, x, flow, split):
    """Output, state, and their gradients for the input and every parameter."""
    x = x.clone().requires_grad_()
    pieces, state = [], None
    for here in (slice(0, split), slice(split, None)) if split else (slice(None),):
        part = Flow(*(None if f is None else f[:, here] for f in flow))
        y, state = module(x[:, here], state, part)
        pieces.append(y)
    y = torch.cat(pieces, 1)
    if flow.mask is not None:
        y = y * flow.mask[..., None]
    made = [y, *state.anchor, *state.weight, *state.momentum]
    generator = torch.Generator().manual_seed(5)
    loss = sum((m * torch.randn(m.shape, generator=generator, dtype=m.dtype)).sum() for m in made)
    grads = torch.autograd.grad(loss, [x, *module.parameters()])
    names = ["y", "a1", "a2", "w1", "w2", "m1", "m2", "x", *dict(module.named_parameters())]
    return dict(zip(names, [*made, *grads], strict=True)), state.count


def both_ways(module, x, flow, split, monkeypatch):
    results = []
    for switch in ("1", "0"):
        monkeypatch.setenv(native.SWITCH, switch)
        results.append(everything(module, x, flow, split))
    (fast, count), (truth, same) = results
    assert torch.equal(count, same)
    return {name: relative_rms(fast[name], truth[name]) for name in truth}


@needs_kernel
@pytest.mark.parametrize("width", [6, 16])
@pytest.mark.parametrize("name", CASES)
def test_matches_torch_segments(name, width, monkeypatch):
    options, length, split, starts = CASES[name]
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, length, 2 * width, generator=generator, dtype=torch.float64)
    reset = torch.zeros(2, length, dtype=torch.bool)
    for row, place in starts:
        reset[row, place] = True
    flow = Flow(reset=reset if starts else None)
    for error in both_ways(build(width, **options), x, flow, split, monkeypatch).items():
        assert error[1] <= 1e-11, error


@needs_kernel
def test_masked_positions_and_empty_documents(monkeypatch):
    """Row 0: 5 valid tokens, then an empty document; row 1: a document with masked end."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 12, 16, generator=generator, dtype=torch.float64)
    mask = torch.ones(2, 12, dtype=torch.bool)
    reset = torch.zeros(2, 12, dtype=torch.bool)
    mask[0, 5:], reset[0, 8] = False, True
    mask[1, 6:8], reset[1, 8] = False, True
    errors = both_ways(build(8), x, Flow(reset=reset, mask=mask), None, monkeypatch)
    del errors["a1"], errors["a2"], errors["w1"], errors["w2"], errors["m1"], errors["m2"]
    assert max(errors.values()) <= 1e-11, errors


@needs_kernel
def test_float32_error_no_larger_than_torch(monkeypatch):
    x = torch.randn(2, 100, 128, generator=torch.Generator().manual_seed(2))
    results = []
    for switch, dtype in (("0", torch.float64), ("0", torch.float32), ("1", torch.float32)):
        monkeypatch.setenv(native.SWITCH, switch)
        module = build(64, dtype, period=32, projection_period=32)
        results.append(everything(module, x.to(dtype), Flow(), None)[0])
    truth, torch_form, compiled = results
    for name, want in truth.items():
        allowed = 2 * relative_rms(torch_form[name], want) + 1e-6
        assert relative_rms(compiled[name], want) <= allowed, name


@needs_kernel
def test_bitwise_equal_for_any_thread_count():
    module, results = build(16, torch.float32), []
    x = torch.randn(3, 40, 32, generator=torch.Generator().manual_seed(2))
    before = torch.get_num_threads()
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        results.append(everything(module, x, Flow(), None)[0])
    torch.set_num_threads(before)
    assert all(same_by_threads(module, results[0], other) == "" for other in results)


def test_missing_compiler_falls_back(monkeypatch, tmp_path):
    monkeypatch.setattr(native.shutil, "which", lambda name: None)
    (tmp_path / "a.cpp").write_text("int x;")
    assert native.library(tmp_path, "a.cpp") is None


@needs_kernel
def test_compile_failure_warns(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "a.cpp").write_text("not C++")
    with pytest.warns(UserWarning, match="slower torch implementation"):
        assert native.library(tmp_path, "a.cpp") is None


def test_rows_split_at_documents_periods_and_vectors():
    reset = torch.zeros(2, 12, dtype=torch.bool)
    reset[1, 5] = True
    cuts = cut(torch.tensor([3, 0]), reset, None, length=12, period=8, tokens=4, group=2)
    assert cuts.rows.tolist() == [0, 4, 8]
    assert cuts.begin.tolist() == [0, 4, 5, 9, 0, 4, 5, 9]
    assert cuts.count.tolist() == [4, 1, 4, 3, 4, 1, 4, 3]
    assert cuts.flags.tolist() == [8, 0, 14, 0, 10, 0, 15, 0]
    assert cuts.closes.tolist() == [0, 0]
    assert cuts.tokens.tolist() == [15, 7]
