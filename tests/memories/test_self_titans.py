"""Self-modifying Titans: reference loop, meta-gradients, and bounds."""

import pytest
import torch
from naive_self_titans import self_titans as naive
from torch.nn import functional

from nestling.core.error import UserError
from nestling.core.memory import Flow
from nestling.memories.self_titans import SelfTitans
from nestling.ops import momentum_gated_delta_rule


def build(seed=0, hidden_size=8, num_heads=2, strong=True, **options):
    """A small float64 layer whose gates and writes are far from their limits."""
    config = SelfTitans.Config(**{"period": 4, "projection_period": 4, **options})
    module = SelfTitans(config, hidden_size=hidden_size, num_heads=num_heads).double()
    generator = torch.Generator().manual_seed(seed)
    module.init_weights(generator)
    if strong:
        with torch.no_grad():
            module.projection.weight.normal_(0, 0.5, generator=generator)
            module.eta_bias.fill_(0)
            if module.config.decay:
                module.alpha_bias.fill_(1)
            for name, parameter in module.named_parameters():
                if name in ("eta_weight", "alpha_weight", "output.weight"):
                    parameter.normal_(0, 0.7, generator=generator)
            if module.initial_second is not None:
                module.initial_second.normal_(0, 0.3, generator=generator)
    return module


def sequence(length, seed=1, batch=2, width=8):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, length, width, generator=generator, dtype=torch.float64)


# keys, values and rates are projected (Eq 76), so there is no second period
BASE = {f"adaptive_{name}": False for name in ("k", "v", "eta", "alpha")}
BASE |= {"values": "shared", "projection_period": 32}
VARIANTS = {
    "default": {},
    "adaptive q": {"adaptive_q": True},
    "no momentum": {"momentum": False},
    "no eraser": {"rule": "gd"},
    "dot": {"objective": "dot"},
    "matrix": {"network": "matrix"},
    "matrix, dot, large eta": {"network": "matrix", "objective": "dot", "eta_max": 2.0},
    "read pre": {"read": "pre"},
    "read anchor": {"read": "anchor"},
    "decay to zero": {"decay_to": "zero"},
    "slow output memory": {"period": 4, "projection_period": 2},
    "slow projections": {"period": 2, "projection_period": 4},
    "whole eraser": {"erase": "whole"},
    "wide": {"memory_hidden": 7},
    "clipped": {"clip": 0.3},
    "no decay": {"decay": False, "eta_max": 1.5},
    "projected keys": {"adaptive_k": False},
    "projected values": {"adaptive_v": False, "projection_period": 2},
    "projected rates": {"adaptive_eta": False, "adaptive_alpha": False},
    "the output memory alone": {
        **dict.fromkeys(("adaptive_k", "adaptive_v", "adaptive_eta"), False),
        "decay": False,
        "period": 6,
        "projection_period": 32,
    },
    "base": {**BASE, "period": 6},
    "base, gradient descent": {
        **BASE,
        "rule": "gd",
        "momentum": False,
        "decay_to": "zero",
    },
    "shared values": {"values": "shared", "adaptive_q": True},
    "shared values, two periods": {
        "values": "shared",
        "adaptive_q": True,
        "projection_period": 2,
        "clip": 0.6,
        "projection_clip": 0.2,
    },
    "shared values, other width inside": {"values": "shared", "memory_hidden": 3},
    "shared values, dot": {"values": "shared", "objective": "dot", "read": "pre"},
    "shared values, matrix": {"values": "shared", "network": "matrix", "erase": "whole"},
    "shared values, rates of rows": {"values": "shared", "rates": "channel", "step": "proximal"},
    "plain momentum": {"normalised_momentum": False},
    "raw step": {"step": "raw"},
    "proximal step": {"step": "proximal"},
    "through the targets": {"detach_target": False, "clip": 0.4},
    "through the targets, dot": {
        "detach_target": False,
        "objective": "dot",
        "rule": "gd",
        "step": "proximal",
        "clip": 0.4,
    },
    "through the targets, matrix": {
        "detach_target": False,
        "network": "matrix",
        "momentum": False,
        "decay_to": "zero",
    },
    "rates of rows": {"rates": "channel", "memory_hidden": 5},
    "rates of rows, through the targets": {
        "rates": "channel",
        "detach_target": False,
        "step": "proximal",
        "erase": "whole",
        "read": "pre",
    },
    "rates of rows of a matrix": {
        "rates": "channel",
        "network": "matrix",
        "momentum": False,
        "rule": "gd",
        "objective": "dot",
    },
    "rates of rows, no decay": {"rates": "channel", "decay": False, "decay_to": "zero"},
    "clipped projections": {"clip": 0.6, "projection_clip": 0.2},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_matches_equations_token_by_token(name):
    """Outputs and the gradient of every parameter and input, float64."""
    module = build(**VARIANTS[name])
    x = sequence(9).requires_grad_()
    reset = torch.zeros(2, 9, dtype=torch.bool)
    reset[1, 5] = True
    wanted = [x, *module.parameters()]
    results = []
    for form in ("fast", "naive"):
        y = (
            module(x, None, Flow(reset=reset))[0]
            if form == "fast"
            else naive(module, x, reset=reset)
        )
        weights = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)
        results.append((y, torch.autograd.grad((y * weights).sum(), wanted, allow_unused=True)))
    (fast, fast_grads), (truth, truth_grads) = results
    assert (fast - truth).norm() <= 1e-9 * truth.norm()
    names = ["x", *(n for n, _ in module.named_parameters())]
    for n, got, want in zip(names, fast_grads, truth_grads, strict=True):
        assert want is not None and want.norm() > 0, n
        assert (got - want).norm() <= 1e-9 * want.norm(), n


@pytest.mark.parametrize("name", VARIANTS)
def test_token_by_token_equals_the_whole(name):
    """The step of decoding against the chunk form: outputs, state and every gradient, float64."""
    module = build(**VARIANTS[name])
    found = []
    for pieces in (sequence(9).split(1, dim=1), (sequence(9),)):
        x = [piece.requires_grad_() for piece in pieces]
        state, outputs = None, []
        for piece in x:
            y, state = module(piece, state)
            outputs.append(y)
        y = torch.cat(outputs, dim=1)
        ends = [part for part in (*state.weight, *state.momentum) if part is not None]
        loss = (y * sequence(9, seed=2)).sum() + sum(end.square().sum() for end in ends)
        parameters = [p for p in module.parameters() if p.requires_grad]
        grads = torch.autograd.grad(loss, [*parameters, *x], allow_unused=True)
        grads, rest = grads[: len(parameters)], grads[len(parameters) :]
        found.append([y, *ends, torch.cat(rest, dim=1), *(g for g in grads if g is not None)])
    for one, whole in zip(*found, strict=True):
        torch.testing.assert_close(one, whole, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"objective": "dot", "eta_max": 2.0},
        {"clip": 0.3},
        {"clip": 0.6, "projection_clip": 0.2},
    ],
)
@pytest.mark.parametrize(("width", "hidden"), [(8, None), (10, 7), (64, 33)])
def test_decoding_after_prefill_equals_the_whole(options, width, hidden):
    """Without gradients a token uses the compiled step if there is a compiler."""
    module = build(hidden_size=width, memory_hidden=hidden, **options)
    x = sequence(13, width=width)
    with torch.no_grad():
        whole, end = module(x)
        y, state = module(x[:, :3])
        outputs = [y]
        for piece in (*x[:, 3:9].split(1, dim=1), x[:, 9:11], x[:, 11:12], x[:, 12:]):
            y, state = module(piece, state)
            outputs.append(y)
    torch.testing.assert_close(torch.cat(outputs, dim=1), whole, rtol=1e-9, atol=1e-10)
    for layers, expected in zip(state[1:4], end[1:4], strict=True):
        for one, other in zip(layers, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10)


def test_compiled_step_is_accurate_in_float32():
    from nestling.ops.self_titans.token import available

    module = build(hidden_size=64).float()
    x = sequence(20, width=64).float()
    with torch.no_grad():
        if not available(x):
            pytest.skip("no C++ compiler here")
        found, truth = [], module.double()(x.double())[0]
        module, state = module.float(), None
        for piece in x.split(1, dim=1):
            y, state = module(piece, state)
            found.append(y)
    assert (torch.cat(found, dim=1) - truth).norm() <= 1e-5 * truth.norm()


def test_step_does_not_modify_its_input_state():
    module = build()
    _, state = module(sequence(6))
    before = [part.clone() for layers in state[1:4] for part in layers]
    with torch.no_grad():
        module(sequence(1, seed=3), state)
    after = [part for layers in state[1:4] for part in layers]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("network", ["mlp", "matrix"])
def test_meta_gradient_of_every_memory_matches_finite_differences(network):
    """The initial states of k, eta, alpha, v, q and memory are learned through the writes."""
    module = build(adaptive_q=True, network=network)
    x = sequence(13)
    weights = torch.randn(2, 13, 8, generator=torch.Generator().manual_seed(3)).double()

    def loss():
        return (module(x)[0] * weights).sum()

    for parameter in (module.initial_first, module.initial_second):
        if parameter is None:
            continue
        (grad,) = torch.autograd.grad(loss(), parameter)
        for index, name in enumerate(module.names):
            direction = torch.zeros_like(parameter)
            generator = torch.Generator().manual_seed(index)
            part = torch.randn(direction[:, index].shape, generator=generator, dtype=grad.dtype)
            direction[:, index] = part
            step, values = 1e-5, []
            for sign in (1, -1):
                with torch.no_grad():
                    parameter.add_(sign * step * direction)
                    values.append(loss())
                    parameter.sub_(sign * step * direction)
            numeric = (values[0] - values[1]) / (2 * step)
            analytic = (grad * direction).sum()
            assert analytic.abs() > 1e-6, name
            assert abs(analytic - numeric) <= 1e-6 * max(1.0, abs(numeric)), name


def test_every_memory_trains_within_five_steps():
    module = build(strong=False, adaptive_q=True)
    before = {n: p.detach().clone() for n, p in module.named_parameters() if "initial" in n}
    optimizer = torch.optim.SGD(module.parameters(), lr=1.0)
    for step in range(5):
        optimizer.zero_grad()
        module(sequence(16, seed=step))[0].square().sum().backward()
        optimizer.step()
    for name, start in before.items():
        moved = (dict(module.named_parameters())[name] - start).abs()
        for index, memory in enumerate(module.names):
            assert moved[:, index].amax() > 0, (name, memory)


def test_periods_count_from_document_start():
    """A packed row equals its documents read separately, for any split."""
    module = build()
    x = sequence(17)
    reset = torch.zeros(2, 17, dtype=torch.bool)
    reset[0, 5] = reset[1, 11] = True
    y, state = module(x, None, Flow(reset=reset))
    for row, cut in ((0, 5), (1, 11)):
        alone = torch.cat(
            [module(p)[0] for p in (x[row : row + 1, :cut], x[row : row + 1, cut:])], 1
        )
        assert (y[row] - alone[0]).norm() <= 1e-12 * alone.norm()
    assert state.count.tolist() == [12, 6]


def test_masked_positions_after_valid_ones_change_nothing():
    module = build()
    x = sequence(12)
    mask = torch.ones(2, 12, dtype=torch.bool)
    mask[1, 7:] = False
    _, state = module(x, None, Flow(mask=mask))
    _, short = module(x[1:, :7])
    more = sequence(5, seed=8)
    y, _ = module(more, state)
    alone, _ = module(more[1:], short)
    assert (y[1] - alone[0]).norm() <= 1e-12 * alone.norm()


AT = ", gradients at the state of every 4 tokens"


@pytest.mark.parametrize(
    ("options", "name", "field", "text"),
    [
        ({}, "M_k", "rule", f"delta gradient descent with decay{AT}"),
        ({}, "momentum of M_k", "rule", "normalised momentum"),
        ({"rule": "gd", "decay": False}, "M_k", "rule", f"gradient descent, no decay{AT}"),
        (
            {"rates": "channel", "step": "raw"},
            "M_k",
            "rule",
            f"delta gradient descent with decay, rates of every row, steps as they are{AT}",
        ),
        (
            {"step": "proximal", "projection_clip": 0.25},
            "M_k",
            "rule",
            f"delta gradient descent with decay, proximal steps{AT} and no longer than 0.25",
        ),
        ({"normalised_momentum": False}, "momentum of M_k", "rule", "momentum"),
        ({"detach_target": False}, "M_k", "objective", "|M(k) - M(v)|^2 / 2"),
        ({"values": "shared"}, "M_eta", "objective", "|M(eta) - v|^2 / 2"),
        ({"values": "shared"}, "M_memory", "context", "pairs (k, v) of each token"),
        (
            {"adaptive_k": False},
            "M_memory",
            "context",
            "pairs (k, v_hat = M_memory(v)) made of each token, v by a memory, "
            "the other by the projection",
        ),
    ],
)
def test_levels_reflect_switches(options, name, field, text):
    found = {level.name: level for level in build(**options).levels()}
    assert getattr(found[name], field) == text
    assert ("M_alpha" in found) == options.get("decay", True)
    assert ("M_k" in found) == options.get("adaptive_k", True)


def test_compiled_forms_are_used_for_supported_options_only():
    from nestling.memories.self_titans.kernel import fits

    known = {"clip": 1.0, "projection_clip": 0.5, "objective": "dot", "eta_max": 2.0}
    assert fits(SelfTitans.Config(**known))
    for name, options in VARIANTS.items():
        compiled = set(options) <= {*known, "memory_hidden", "epsilon"}
        assert fits(build(**options).config) == compiled, name


def test_state_dtype_is_float32_for_a_bfloat16_model():
    module = build(hidden_size=16).bfloat16()
    y, state = module(sequence(9, width=16).bfloat16())
    assert y.dtype == torch.bfloat16 and torch.isfinite(y).all()
    assert state.weight.first.dtype == torch.float32


@pytest.mark.parametrize("period", [16, 64])
@pytest.mark.parametrize("strong", [False, True])
def test_one_token_repeated_stays_bounded(period, strong):
    """The same input 10,000 times: equal keys, the worst case of the frozen gradient."""
    module = build(hidden_size=32, period=period, projection_period=period, strong=strong).float()
    x = sequence(1, batch=1, width=32).float().expand(1, 100, 32)
    state, norms = None, []
    with torch.no_grad():
        for _ in range(100):
            y, state = module(x, state)
            assert torch.isfinite(y).all()
            norms.append(max(float(w.norm()) for w in state.weight))
    initial = max(float(p.detach().norm()) for p in (module.initial_first, module.initial_second))
    # the orbit is chaotic with bursts: either half may have the larger ones
    assert max(norms) < 2 * initial


@pytest.mark.parametrize("eta_max", [1.0, 2.0])
def test_equal_keys_at_the_largest_rate_stay_bounded(eta_max):
    """Equal keys, random values, eta at its limit and almost no decay."""
    module = build(hidden_size=32, eta_max=eta_max, period=16, projection_period=16).float()
    with torch.no_grad():
        module.eta_weight.zero_()
        module.eta_bias.fill_(8.0)
        module.alpha_bias.fill_(9.0)
        module.projection.weight[32:64] = 0
        x = sequence(2000, batch=1, width=32).float()
        x[..., 0] = 1
        module.projection.weight[32:64, 0] = 1.0
        y, state = module(x)
    assert torch.isfinite(y).all()
    initial = max(float(p.detach().norm()) for p in (module.initial_first, module.initial_second))
    assert max(float(w.norm()) for w in state.weight) < 20 * initial


@torch.no_grad()
@pytest.mark.parametrize("period", [1, 5, 32])
def test_linear_dot_product_base_reduces_to_gated_delta_rule(period):
    """Nothing is read from an anchor then, so the period has no effect: Eq 76-78 with Eq 88."""
    options = {"network": "matrix", "objective": "dot", "momentum": False, "period": period}
    module, x = build(**BASE, **options), sequence(13)
    projected, _ = module.convolution(module.projection(x), module.convolution.init_tail(2))
    q, k, v = functional.normalize(projected.unflatten(-1, (3, 2, -1)), dim=-1).unbind(2)
    alpha = torch.sigmoid((k * module.alpha_weight).sum(-1) + module.alpha_bias)
    eta = torch.sigmoid((k * module.eta_weight).sum(-1) + module.eta_bias)
    y, state = momentum_gated_delta_rule(q, k, eta[..., None] * v, alpha=alpha, beta=eta)
    y = y + q + torch.einsum("bthk,hvk->bthv", q, module.initial_first[:, 0])
    y = module.output(module.norm(y).flatten(2) * functional.silu(module.gate(x)))
    found, after = module(x)
    torch.testing.assert_close(found, y, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(after.weight.first[:, :, 0], state.weight, rtol=1e-9, atol=1e-12)


def test_writes_off_reads_the_initial_memory():
    module = build(writes=False)
    x = sequence(9)
    whole, _ = module(x)
    # the convolution sees three tokens back and no further
    later, _ = module(x[:, 3:])
    assert torch.allclose(whole[:, 6:], later[:, 3:], rtol=0, atol=1e-12)
    assert not torch.allclose(build()(x)[0], whole, atol=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"period": 6, "projection_period": 4}, "divide"),
        ({"network": "cnn"}, "mlp, matrix"),
        ({"objective": "l3"}, "l2, dot"),
        ({"eta_init": 1.5}, "eta_init"),
        ({"convolution": 0}, "convolution"),
        ({"clip": 0.0}, "clip"),
        ({"projection_clip": -1.0}, "projection_clip"),
        ({"momentum_init": 1.0}, "momentum_init"),
        ({"half_life": (0.0, 8.0)}, "half_life"),
        ({"memory_hidden": 0}, "memory_hidden"),
        ({"step": "prox"}, "energy, proximal, raw"),
        ({"rates": "row"}, "head, channel"),
        ({"momentum": False, "momentum_init": 0.9}, "momentum_init has no effect"),
        ({"momentum": False, "normalised_momentum": False}, "normalised_momentum has no effect"),
        ({"decay": False, "half_life": (1.0, 2.0)}, "half_life has no effect"),
        ({"decay": False, "adaptive_alpha": False}, "adaptive_alpha has no effect"),
        ({"step": "raw", "epsilon": 2.0}, "epsilon has no effect"),
        ({"network": "matrix", "memory_hidden": 3}, "memory_hidden has no effect"),
        ({"network": "matrix", "epsilon": 3.0}, "epsilon has no effect"),
        ({"network": "matrix", "step": "raw"}, "step has no effect"),
        ({"rule": "gd", "erase": "whole"}, "erase has no effect"),
        ({"values": "shared", "detach_target": False}, "detach_target has no effect"),
        ({"values": "mine"}, "own, shared"),
    ],
)
def test_invalid_options_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        SelfTitans.Config(**options)
