"""The compiled scan of test-time training against the torch mini-batches, with gradients."""

import pytest
import torch
from tolerances import relative_rms, same_by_threads

from nestling.core import native
from nestling.core.memory import Flow
from nestling.memories.ttt import TTTMLP, TTTLinear, TTTState
from nestling.ops.ttt import KERNEL

KINDS = {"linear": TTTLinear, "mlp": TTTMLP}
LENGTHS = (1, 15, 16, 17, 40)

pytestmark = pytest.mark.skipif(KERNEL.library() is None, reason="no C++ compiler on this machine")


def build(kind, width, dtype=torch.float64, heads=2, **options):
    """A layer with strong writes and every parameter off its initial value."""
    config = KINDS[kind].Config(**{"eta_base": 1.0, **options})
    module = KINDS[kind](config, hidden_size=heads * width, num_heads=heads)
    generator = torch.Generator().manual_seed(0)
    module.init_weights(generator)
    with torch.no_grad():
        for parameter in module.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(noise, alpha=0.1 if parameter.ndim == 1 else width**-0.5)
    return module.to(dtype)


def carried(module, batch):
    """A state within a mini-batch, at a different position in every row."""
    generator = torch.Generator().manual_seed(3)

    def drawn(x):
        return 0.3 * torch.randn(x.shape, generator=generator, dtype=x.dtype)

    fresh = module.init_state(batch)
    mixer_tail, tail = drawn(fresh.mixer_tail), drawn(fresh.tail)
    anchor, total = (
        tuple(type(layer)(*map(drawn, layer)) for layer in model)
        for model in (fresh.anchor, fresh.total)
    )
    count = torch.arange(batch) * 5 + 18
    return TTTState(mixer_tail, tail, anchor, total, count)


def parts_of(state):
    models = (state.anchor, state.total)
    return [x for model in models for layer in model for x in layer]


def everything(module, x, flow=Flow(), split=None, state=None):
    """Output, state, and their gradients for input, state and every parameter."""
    x = x.clone().requires_grad_()
    given = [] if state is None else [part.requires_grad_() for part in parts_of(state)]
    pieces = []
    for here in (slice(0, split), slice(split, None)) if split else (slice(None),):
        part = Flow(*(None if f is None else f[:, here] for f in flow))
        y, state = module(x[:, here], state, part)
        pieces.append(y)
    y = torch.cat(pieces, 1)
    y = y if flow.mask is None else y * flow.mask[..., None]
    made = [y, *parts_of(state)]
    generator = torch.Generator().manual_seed(5)
    loss = sum((m * torch.randn(m.shape, generator=generator, dtype=m.dtype)).sum() for m in made)
    wanted = [x, *given, *module.parameters()]
    grads = torch.autograd.grad(loss, wanted, allow_unused=True, materialize_grads=True)
    names = [f"state {i}" for i in range(len(made) - 1)]
    names = ["y", *names, "x", *(f"given {i}" for i in range(len(given)))]
    names += dict(module.named_parameters())
    return dict(zip(names, [*made, *grads], strict=True)), state.count


def errors(monkeypatch, run):
    """Relative errors of the compiled results against torch."""
    results = []
    for switch in ("1", "0"):
        monkeypatch.setenv(native.SWITCH, switch)
        results.append(run())
    (fast, count), (truth, same) = results
    assert torch.equal(count, same)
    return {
        name: relative_rms(fast[name], want)
        if want.any()
        else float(fast[name].detach().abs().max())
        for name, want in truth.items()
    }


def tokens(length, width, batch=2, dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, length, 2 * width, generator=generator, dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("width", [6, 16])
@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("carries", [False, True])
def test_matches_torch_mini_batches(kind, width, length, carries, monkeypatch):
    module, x = build(kind, width), tokens(length, width)

    def run():
        return everything(module, x, state=carried(module, 2) if carries else None)

    for error in errors(monkeypatch, run).items():
        assert error[1] <= 1e-11, error


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "options",
    [{"mini_batch": 1}, {"mini_batch": 7}, {"mini_batch": 40}, {"backbone": "transformer"}],
)
def test_random_mini_batches_documents_and_splits(kind, options, monkeypatch):
    """Also mini-batches longer than a vector, and documents that end within one."""
    module, x = build(kind, 8, **options), tokens(90, 8)
    reset = torch.zeros(2, 90, dtype=torch.bool)
    reset[0, 3] = reset[1, 71] = reset[1, 72] = True
    flow = Flow(reset=reset)
    for error in errors(monkeypatch, lambda: everything(module, x, flow, split=50)).items():
        assert error[1] <= 1e-11, error


@pytest.mark.parametrize("kind", KINDS)
def test_masked_positions_and_empty_documents(kind, monkeypatch):
    """Row 0: 5 valid tokens, then an empty document; row 1: a document with masked end."""
    module, x = build(kind, 8, mini_batch=4), tokens(12, 8)
    mask = torch.ones(2, 12, dtype=torch.bool)
    reset = torch.zeros(2, 12, dtype=torch.bool)
    mask[0, 5:], reset[0, 8] = False, True
    mask[1, 6:8], reset[1, 8] = False, True
    flow = Flow(reset=reset, mask=mask)
    for error in errors(monkeypatch, lambda: everything(module, x, flow)).items():
        assert error[1] <= 1e-11, error


@pytest.mark.parametrize("kind", KINDS)
def test_float32_error_no_larger_than_torch(kind, monkeypatch):
    results = []
    for switch, dtype in (("0", torch.float64), ("0", torch.float32), ("1", torch.float32)):
        monkeypatch.setenv(native.SWITCH, switch)
        module = build(kind, 64, dtype)
        results.append(everything(module, tokens(100, 64, dtype=dtype))[0])
    truth, torch_form, compiled = results
    for name, want in truth.items():
        allowed = 2 * relative_rms(torch_form[name], want) + 1e-6
        assert relative_rms(compiled[name], want) <= allowed, name


@pytest.mark.parametrize("kind", KINDS)
def test_bitwise_equal_for_any_thread_count(kind):
    module, results = build(kind, 16, torch.float32), []
    before = torch.get_num_threads()
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        found = everything(module, tokens(40, 16, batch=3, dtype=torch.float32))[0]
        # torch sums the norm's gradients per thread
        results.append({k: v for k, v in found.items() if not k.startswith("output_norm")})
    torch.set_num_threads(before)
    assert all(same_by_threads(module, results[0], other) == "" for other in results)
