"""Test-time training layers: reference loop and meta-gradients."""

import pytest
import torch
from naive_ttt import inner_loss
from naive_ttt import ttt as naive
from tolerances import assert_close

from nestling.core.error import UserError
from nestling.core.memory import Flow
from nestling.core.native import SWITCH
from nestling.memories.grid import grid
from nestling.memories.ttt import TTTMLP, TTTLinear

WIDTH, HEADS = 8, 2
KINDS = {"linear": TTTLinear, "mlp": TTTMLP}


def build(kind, seed=0, **options):
    """A small float64 layer with strong writes and no parameter at zero."""
    options = {"mini_batch": 4, "eta_base": 1.0, **options}
    module = KINDS[kind](KINDS[kind].Config(**options), hidden_size=WIDTH, num_heads=HEADS).double()
    generator = torch.Generator().manual_seed(seed)
    module.init_weights(generator)
    with torch.no_grad():
        for parameter in module.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
            parameter.add_(noise, alpha=0.1 if parameter.ndim == 1 else 0.5)
    return module


def sequence(length, seed=1, batch=2):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, length, WIDTH, generator=generator, dtype=torch.float64)


def assert_same(got, want, name):
    assert (got - want).norm() <= 1e-9 * want.norm(), name


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("mini_batch", "backbone"),
    [(1, "mamba"), (4, "mamba"), (4, "transformer"), (7, "transformer"), (16, "mamba")],
)
@pytest.mark.parametrize("switch", ["1", "0"])
def test_matches_equations_token_by_token(kind, mini_batch, backbone, switch, monkeypatch):
    """Outputs, final states and the gradient of every parameter and input, float64."""
    monkeypatch.setenv(SWITCH, switch)
    module = build(kind, mini_batch=mini_batch, backbone=backbone)
    x = sequence(10).requires_grad_()
    reset = torch.zeros(2, 10, dtype=torch.bool)
    reset[1, 3] = True
    y, state = module(x, None, Flow(reset=reset))
    truth, models = naive(module, x, reset)
    assert_same(y, truth, "y")
    results, ends = [y, truth], [[], []]
    for row, heads in enumerate(models):
        for head, (anchor, running, total) in enumerate(heads):
            closed = state.count[row] % mini_batch == 0
            # a full mini-batch is written, and its gradients are gone
            expected = [running if closed else anchor, None if closed else total]
            for ours, theirs in zip((state.anchor, state.total), expected, strict=True):
                for index, layer in enumerate(ours):
                    for place, value in enumerate(layer):
                        if theirs is None:
                            assert not value[row, head].any()
                            continue
                        assert_same(value[row, head], theirs[index][place], (row, head, index))
                        ends[0].append(value[row, head].flatten())
                        ends[1].append(theirs[index][place].flatten())
    wanted, gradients = [x, *module.parameters()], []
    for y, end in zip(results, map(torch.cat, ends), strict=True):
        both = torch.cat((y.flatten(), end))
        loss = (both * torch.linspace(-1, 2, len(both), dtype=both.dtype)).sum()
        gradients.append(torch.autograd.grad(loss, wanted, allow_unused=True))
    names = ["x", *(n for n, _ in module.named_parameters())]
    for name, got, want in zip(names, *gradients, strict=True):
        assert want is not None and want.norm() > 0, name
        assert_same(got, want, name)


@pytest.mark.parametrize("kind", KINDS)
def test_meta_gradient_of_the_initial_model_matches_finite_differences(kind):
    module, x = build(kind), sequence(11)
    weights = sequence(11, seed=3)

    def loss():
        return (module(x)[0] * weights).sum()

    initial = [*module.initial_weights, *module.initial_biases]
    for index, (parameter, grad) in enumerate(
        zip(initial, torch.autograd.grad(loss(), initial), strict=True)
    ):
        generator = torch.Generator().manual_seed(index)
        direction = torch.randn(parameter.shape, generator=generator, dtype=grad.dtype)
        step, values = 1e-5, []
        for place in (step, -step, 2 * step, -2 * step):
            with torch.no_grad():
                parameter.add_(place * direction)
                values.append(loss())
                parameter.sub_(place * direction)
        one, back, two, back_two = values
        numeric = (8 * (one - back) - (two - back_two)) / (12 * step)
        analytic = (grad * direction).sum()
        assert analytic.abs() > 1e-4
        assert abs(analytic - numeric) <= 1e-6 * abs(numeric)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cuts", [[5, 6, 14], [1] * 25, [4, 17, 4]])
def test_open_mini_batch_is_kept_in_the_state(kind, cuts):
    """Outputs, state and gradients for any split, with rows at different positions."""
    module, x = build(kind), sequence(25)
    reset = torch.zeros(2, 25, dtype=torch.bool)
    reset[0, 6] = reset[1, 15] = True
    results = []
    for lengths in ([25], cuts):
        state, outputs = None, []
        for part, flag in zip(x.split(lengths, 1), reset.split(lengths, 1), strict=True):
            y, state = module(part, state, Flow(reset=flag))
            outputs.append(y)
        y = torch.cat(outputs, 1)
        grads = torch.autograd.grad(y.square().sum(), list(module.parameters()))
        parts = [x for layers in (state.anchor, state.total) for layer in layers for x in layer]
        assert state.count.tolist() == [19, 10]
        results.append([y, *grads, *parts])
    for whole, cut in zip(*results, strict=True):
        assert_close(cut, whole)


@pytest.mark.parametrize("kind", KINDS)
def test_mini_batches_count_from_document_start(kind):
    """A packed row equals its documents read separately, with or without padding between."""
    module, x = build(kind), sequence(17)
    reset = torch.zeros(2, 17, dtype=torch.bool)
    mask = torch.ones(2, 17, dtype=torch.bool)
    reset[0, 5] = reset[1, 11] = True
    mask[1, 9:11] = False
    y, state = module(x, None, Flow(reset, mask))
    for row, span in ((0, slice(0, 5)), (0, slice(5, 17)), (1, slice(0, 9)), (1, slice(11, 17))):
        assert_close(y[row : row + 1, span], module(x[row : row + 1, span])[0])
    assert state.count.tolist() == [12, 6]


@pytest.mark.parametrize("kind", KINDS)
def test_repeated_mini_batch_has_lower_loss(kind):
    """The inner training lowers its loss."""
    module = build(kind, backbone="transformer")
    with torch.no_grad():
        module.token_scale.zero_()
    x = sequence(4, batch=1)
    inputs = module.norm(x[0])
    k, v = (linear(inputs)[0, : WIDTH // HEADS] for linear in (module.key, module.value))
    scale, shift = (p[: WIDTH // HEADS] for p in (module.inner_scale, module.inner_shift))
    losses, state = [], module.init_state(1)
    for _ in range(30):
        weights = [tuple(part[0, 0] for part in layer) for layer in state.anchor]
        losses.append(float(inner_loss(weights, scale, shift, k, v).detach()))
        _, state = module(x, state)
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("kind", KINDS)
def test_state_is_float32_for_a_bfloat16_model_and_under_autocast(kind):
    module = build(kind).float()
    x = sequence(9).float()
    with torch.autocast("cpu", torch.bfloat16):
        y, state = module(x)
    assert torch.isfinite(y).all() and state.anchor[0].weight.dtype == torch.float32
    y, state = module.bfloat16()(x.bfloat16())
    assert y.dtype == torch.bfloat16 and torch.isfinite(y).all()
    assert state.total[0].weight.dtype == torch.float32


def test_published_sizes_and_rates():
    linear, mlp = (
        KINDS[kind](KINDS[kind].Config(), hidden_size=WIDTH, num_heads=HEADS) for kind in KINDS
    )
    assert [tuple(w.shape) for w in linear.initial_weights] == [(2, 4, 4)]
    assert [tuple(w.shape) for w in mlp.initial_weights] == [(2, 16, 4), (2, 4, 16)]
    assert (linear.config.eta_base, mlp.config.eta_base) == (1.0, 0.1)
    assert linear.config.mini_batch == mlp.config.mini_batch == 16


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mini_batch": 0}, "mini_batch"),
        ({"eta_base": 0.0}, "eta_base"),
        ({"backbone": "rnn"}, "one of mamba, transformer"),
        ({"convolution": 0}, "convolution"),
    ],
)
def test_invalid_options_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        TTTMLP.Config(**options)


def test_open_mini_batch_stores_one_slot_per_token():
    """Decoding allocates one slot per token, at any position of the mini-batch."""
    count = torch.tensor([5, 12, 0])
    places = grid(count, Flow(), length=1, period=16)
    assert places.shape == (1, 1) and places.position[:, 0].tolist() == [5, 12, 0]
    x = torch.randn(3, 1, 4)
    assert torch.equal(places.collect(places.spread(x)), x)
    assert grid(count, Flow(), length=32, period=16).shape == (3, 16)
