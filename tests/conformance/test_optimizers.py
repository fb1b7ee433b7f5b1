"""Conformance tests for every registered optimizer, in the variants of CASES."""

import copy
import io

import pytest
import torch
from optimizer_problems import PROBLEMS, MixedShapes, Network, Quadratic, build, descend
from tolerances import assert_close
from torch import nn
from torch.optim.lr_scheduler import CyclicLR, OneCycleLR

from nestling.core import native
from nestling.core.error import UserError
from nestling.optim import OPTIMIZERS
from nestling.optim.base import GradientMemory

# those with a class of this library
OURS = [name for name in OPTIMIZERS.names() if issubclass(OPTIMIZERS.load(name), GradientMemory)]
# at the end of a case's name: without the compiled forms
IN_TORCH = ", in torch"
# name, options, and the rate on each problem: a grid of 1e-4 .. 3 in steps of 3 was tried
CASES = {
    "m3": ("m3", {}, {"quadratic": 0.1, "rosenbrock": 0.1, "mixed shapes": 0.03, "network": 0.1}),
    "m3, no norm": ("m3", {"update_norm": "none"}, {}),
    "m3, pre": ("m3", {"update_norm": "pre"}, {}),
    "m3, adamuon": ("m3", {"update_norm": "adamuon"}, {}),
    "m3, paper": ("m3", {"style": "paper", "update_norm": "none", "slow": ((3, 0.9, 1.0),)}, {}),
    "m3, delta": ("m3", {"style": "delta", "slow": ((2, 0.9, 0.5), (5, 0.9, 0.5))}, {}),
    "delta_momentum": (
        "delta_momentum",
        {},
        {"quadratic": 1.0, "rosenbrock": 0.003, "mixed shapes": 0.3, "network": 3.0},
    ),
    "delta_momentum, scalar": (
        "delta_momentum",
        {"layout": "scalar"},
        {"quadratic": 1.0, "rosenbrock": 0.003, "mixed shapes": 0.3, "network": 1.0},
    ),
    "delta_momentum, matrix": (
        "delta_momentum",
        {"layout": "matrix"},
        {"quadratic": 1.0, "rosenbrock": 0.003, "mixed shapes": 0.3, "network": 3.0},
    ),
    "delta_momentum, in torch": (
        "delta_momentum",
        {},
        {"quadratic": 1.0, "rosenbrock": 0.003, "mixed shapes": 0.3, "network": 3.0},
    ),
    "delta_momentum, scalar, in torch": (
        "delta_momentum",
        {"layout": "scalar"},
        {"quadratic": 1.0, "rosenbrock": 0.003, "mixed shapes": 0.3, "network": 1.0},
    ),
    "delta_momentum, preconditioned": ("delta_momentum", {"preconditioner": "covariance"}, {}),
    "nonlinear_momentum": (
        "nonlinear_momentum",
        {},
        {"quadratic": 0.3, "rosenbrock": 0.1, "mixed shapes": 0.03, "network": 0.3},
    ),
    "nonlinear_momentum, sign": (
        "nonlinear_momentum",
        {"output": "sign"},
        {"quadratic": 0.1, "rosenbrock": 0.01, "mixed shapes": 0.003, "network": 0.03},
    ),
    "delta_gd": ("delta_gd", {}, {}),
    "delta_gd, explicit": ("delta_gd", {"form": "explicit"}, {}),
    "delta_gd, cr": ("delta_gd", {"form": "cr"}, {}),
    # with a decay it converges elsewhere: tests/optim/test_delta_gd.py
    "delta_gd, no decay": (
        "delta_gd",
        {"decay_scale": 0.0},
        {"quadratic": 1.0, "rosenbrock": 0.003, "mixed shapes": 1.0, "network": 3.0},
    ),
    "deep_momentum": (
        "deep_momentum",
        {"width": 8},
        {"quadratic": 0.3, "rosenbrock": 0.01, "mixed shapes": 0.03, "network": 1.0},
    ),
    "deep_momentum, huber": ("deep_momentum", {"inner": "huber", "learn_rows": 3}, {}),
    "deep_momentum, dot": ("deep_momentum", {"inner": "dot", "eta": 0.001}, {}),
    "feature_momentum": (
        "feature_momentum",
        {},
        {"quadratic": 0.1, "rosenbrock": 0.003, "mixed shapes": 0.03, "network": 0.3},
    ),
    "feature_momentum, preconditioned": (
        "feature_momentum",
        {"features": "polynomial", "preconditioner": "covariance"},
        {},
    ),
    "elementwise_memory": (
        "elementwise_memory",
        {},
        {"quadratic": 0.1, "rosenbrock": 0.03, "mixed shapes": 0.03, "network": 0.1},
    ),
    "elementwise_memory, sums": (
        "elementwise_memory",
        {"weighting": "sum", "beta1": 0.0, "target": "square"},
        {},
    ),
}
# factor on the steps of matrices and vectors if all gradients are multiplied by c; None: no single
# law
SAME, LINEAR, INVERSE = (lambda c: 1.0), (lambda c: c), (lambda c: 1 / c)
SCALING = {
    "m3": (SAME, SAME),
    "m3, no norm": (INVERSE, SAME),
    "m3, pre": (SAME, SAME),
    "m3, adamuon": (SAME, SAME),
    "m3, paper": (INVERSE, SAME),
    "m3, delta": (SAME, SAME),
    "delta_momentum": (LINEAR, None),
    "delta_momentum, scalar": (None, None),
    "delta_momentum, matrix": (LINEAR, None),
    "delta_momentum, in torch": (LINEAR, None),
    "delta_momentum, scalar, in torch": (None, None),
    "delta_momentum, preconditioned": (SAME, None),
    "nonlinear_momentum": (SAME, SAME),
    "nonlinear_momentum, sign": (SAME, SAME),
    "delta_gd": (LINEAR, LINEAR),
    "delta_gd, explicit": (LINEAR, LINEAR),
    "delta_gd, cr": (LINEAR, LINEAR),
    "delta_gd, no decay": (LINEAR, LINEAR),
    "deep_momentum": (SAME, SAME),
    "deep_momentum, huber": (SAME, SAME),
    "deep_momentum, dot": (SAME, SAME),
    "feature_momentum": (lambda c: c**0.5, lambda c: c**0.5),
    "feature_momentum, preconditioned": (None, None),
    "elementwise_memory": (SAME, SAME),
    "elementwise_memory, sums": (LINEAR, LINEAR),
}


@pytest.fixture(autouse=True)
def form(request, monkeypatch):
    """Cases marked so run without compiled code."""
    if IN_TORCH in request.node.name:
        monkeypatch.setenv(native.SWITCH, "0")


every_case = pytest.mark.parametrize("case", CASES)


def made(case, module, **more):
    name, options, _ = CASES[case]
    return build(name, module, **{"lr": 0.01} | options | more)


def parameters_of(module):
    return torch.cat([p.detach().flatten() for p in module.parameters()])


def run(case, steps=7, *, kind=MixedShapes, loss_scale=1.0, **more):
    module = kind()
    optimizer = made(case, module, **more)
    for _ in range(steps):
        optimizer.zero_grad()
        (loss_scale * module()).backward()
        optimizer.step()
    return parameters_of(module)


def test_every_optimizer_has_a_case():
    assert {name for name, _, _ in CASES.values()} == set(OURS)
    assert set(SCALING) == set(CASES)
    tried = {(name, problem) for name, _, rates in CASES.values() for problem in rates}
    assert tried == {(name, problem) for name in OURS for problem in PROBLEMS}


@every_case
def test_repeated_runs_are_bitwise_equal(case):
    assert torch.equal(run(case), run(case))


@every_case
def test_state_round_trip_mid_run_is_exact(case):
    module = Network()
    optimizer = made(case, module)
    descend(optimizer, module, 5, falling=False)
    twin = copy.deepcopy(module)
    other = made(case, twin, lr=7.0)
    with io.BytesIO() as file:
        torch.save(optimizer.state_dict(), file)
        file.seek(0)
        other.load_state_dict(torch.load(file, weights_only=True))
    descend(optimizer, module, 6, falling=False)
    descend(other, twin, 6, falling=False)
    assert torch.equal(parameters_of(module), parameters_of(twin))


@every_case
def test_deepcopy_continues_identically(case):
    module = Network()
    optimizer = made(case, module, nonfinite="skip")
    descend(optimizer, module, 2, falling=False)
    if CASES[case][0] == "delta_gd":
        with pytest.raises(UserError, match="load_state_dict"):
            copy.deepcopy(optimizer)
        return
    module, optimizer, twin, other = *copy.deepcopy((module, optimizer)), module, optimizer
    descend(optimizer, module, 2, falling=False)
    descend(other, twin, 2, falling=False)
    assert torch.equal(parameters_of(module), parameters_of(twin))
    assert optimizer.nonfinite == "skip"


@every_case
def test_state_moves_to_the_device_of_its_parameters(case):
    module = Network()
    optimizer = made(case, module)
    descend(optimizer, module, 2, falling=False)
    other = made(case, Network().to("meta"))
    other.load_state_dict(optimizer.state_dict())
    assert len(other.state) == len(optimizer.state)
    for state in other.state.values():
        for name, value in state.items():
            # torch's own optimizers count their steps on the CPU
            assert value.device.type == ("cpu" if name == "step" else "meta"), name


@pytest.mark.parametrize(
    ("case", "problem"), [(case, p) for case, (_, _, rates) in CASES.items() for p in rates]
)
def test_converges(case, problem):
    kind, steps = PROBLEMS[problem]
    module = kind()
    optimizer = made(case, module, lr=CASES[case][2][problem])
    losses = descend(optimizer, module, steps, until=0.01)
    assert losses[-1] < 0.01 * losses[0]


@every_case
@pytest.mark.parametrize("scale", [8.0, 0.3])
def test_loss_scale_invariance(case, scale):
    defaults = made(case, Quadratic()).defaults
    read = "eps" in defaults and defaults.get("preconditioner") != "none"
    tiny, moves = ({"eps": 1e-30} if read else {}), []
    for factor in (1.0, scale):
        module = MixedShapes()
        optimizer, start = made(case, module, **tiny), copy.deepcopy(module)
        generator = torch.Generator().manual_seed(0)
        for _ in range(4):
            for p in module.parameters():
                p.grad = factor * torch.randn(p.shape, generator=generator, dtype=p.dtype)
            optimizer.step()
        moves.append([a - b for a, b in zip(module.parameters(), start.parameters(), strict=True)])
    for plain, scaled in zip(*moves, strict=True):
        law = SCALING[case][0 if plain.ndim > 1 else 1]
        if law is not None:
            torch.testing.assert_close(scaled, plain * law(scale), rtol=1e-6, atol=1e-9)


@every_case
def test_maximize_is_descent_on_the_negative(case):
    assert torch.equal(run(case, maximize=True), run(case, loss_scale=-1.0))


@every_case
def test_parameters_without_a_gradient_do_not_move(case):
    module = Network()
    optimizer = made(case, module, weight_decay=0.1)
    kept = module.table.weight.detach().clone()
    module.table.weight.requires_grad_(False)
    descend(optimizer, module, 3, falling=False)
    assert torch.equal(module.table.weight, kept)


@every_case
def test_weight_decay_is_decoupled(case):
    start = parameters_of(MixedShapes())
    plain, decayed = run(case, 1, lr=0.1), run(case, 1, lr=0.1, weight_decay=0.5)
    if CASES[case][0] != "delta_gd":
        torch.testing.assert_close(decayed, plain - 0.05 * start, rtol=1e-9, atol=1e-12)
    else:
        assert decayed.norm() < plain.norm()


@every_case
def test_closure_runs_with_gradients_enabled(case):
    module = Quadratic()
    optimizer = made(case, module)

    def closure():
        optimizer.zero_grad()
        loss = module()
        loss.backward()
        return loss

    assert float(optimizer.step(closure).detach()) == float(Quadratic()().detach())
    torch.testing.assert_close(parameters_of(module), run(case, 1, kind=Quadratic))


@every_case
def test_works_with_torch_scheduler(case):
    module = Quadratic()
    optimizer = made(case, module)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=4)
    for _ in range(4):
        optimizer.zero_grad()
        module().backward()
        optimizer.step()
        scheduler.step()
    before = parameters_of(module)
    module().backward()
    optimizer.step()
    torch.testing.assert_close(parameters_of(module), before, rtol=0, atol=1e-12)


@every_case
def test_gradient_accumulation(case):
    module = MixedShapes()
    optimizer = made(case, module)
    for _ in range(3):
        optimizer.zero_grad()
        for _ in range(4):
            (module() / 4).backward()
        optimizer.step()
    torch.testing.assert_close(parameters_of(module), run(case, 3), rtol=1e-5, atol=1e-8)


@every_case
def test_nonfinite_gradient_skips_the_step(case):
    for value in (float("nan"), float("inf")):
        module = Network()
        for kind in ("raise", "skip"):
            optimizer = made(case, module, nonfinite=kind)
            descend(optimizer, module, 2, falling=False)
            weights, state = parameters_of(module), copy.deepcopy(optimizer.state)
            optimizer.zero_grad()
            module().backward()
            module.hidden.weight.grad[0, 0] = value
            if kind == "raise":
                with pytest.raises(UserError, match="not finite"):
                    optimizer.step()
            else:
                optimizer.step()
                assert optimizer.skipped == 1
            assert torch.equal(parameters_of(module), weights)
            for now, before in zip(optimizer.state.values(), state.values(), strict=True):
                assert now.keys() == before.keys()
                assert all(torch.equal(now[name], before[name]) for name in now)


@every_case
def test_works_with_grad_scaler(case):
    module = MixedShapes()
    optimizer = made(case, module)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for _ in range(3):
        optimizer.zero_grad()
        scaler.scale(module()).backward()
        scaler.step(optimizer)
        scaler.update()
    assert torch.equal(parameters_of(module), run(case, 3))


@every_case
def test_bfloat16_parameters_keep_float32_state(case):
    """With the same gradients they match float32 parameters up to rounding."""
    narrow, wide = Network(torch.bfloat16), Network(torch.bfloat16).float()
    optimizers = made(case, narrow), made(case, wide)
    generator = torch.Generator().manual_seed(0)
    pairs = list(zip(narrow.parameters(), wide.parameters(), strict=True))
    allowed = [torch.zeros(w.shape) for w in wide.parameters()]
    for _ in range(8):
        before = [w.detach().clone() for w in wide.parameters()]
        for n, w in pairs:
            n.grad = torch.randn(n.shape, generator=generator).to(n.dtype)
            w.grad = n.grad.float()
        for optimizer in optimizers:
            optimizer.step()
        for limit, (_, w), old in zip(allowed, pairs, before, strict=True):
            # rounding to 8 bits: of the step, and of the sum
            limit += 2**-8 * (w.detach().abs() + (w.detach() - old).abs() + limit)
    for limit, (n, w) in zip(allowed, pairs, strict=True):
        assert ((n - w).detach().abs() <= limit).all()
    for own, other in zip(*(o.state.values() for o in optimizers), strict=True):
        for name in own:
            assert own[name].dtype == other[name].dtype
            assert_close(own[name], other[name])


@pytest.mark.parametrize("case", [c for c, (_, _, rates) in CASES.items() if "network" in rates])
def test_a_network_in_bfloat16_learns(case):
    module = Network(torch.bfloat16)
    optimizer = made(case, module, lr=CASES[case][2]["network"])
    losses = descend(optimizer, module, PROBLEMS["network"][1], until=0.5)
    assert losses[-1] < 0.5 * losses[0]


@every_case
def test_bfloat16_state_dict_round_trip(case):
    module = Network(torch.bfloat16)
    optimizer = made(case, module)
    descend(optimizer, module, 3, falling=False)
    twin = copy.deepcopy(module)
    other = made(case, twin)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    descend(optimizer, module, 3, falling=False)
    descend(other, twin, 3, falling=False)
    assert torch.equal(parameters_of(module), parameters_of(twin))


@every_case
def test_invalid_options_and_gradients_are_refused(case):
    with pytest.raises(UserError, match="lr"):
        made(case, Quadratic(), lr=-1.0)
    with pytest.raises(UserError, match="nonfinite"):
        made(case, Quadratic(), nonfinite="maybe")
    with pytest.raises(UserError, match="complex"):
        made(case, nn.Linear(2, 2, dtype=torch.complex64))
    module = nn.Embedding(4, 2, sparse=True)
    optimizer = made(case, module)
    module(torch.tensor([1])).sum().backward()
    with pytest.raises(UserError, match="sparse=False"):
        optimizer.step()


@every_case
def test_empty_parameter_and_added_group(case):
    module = nn.ParameterList([nn.Parameter(torch.ones(3, 2)), nn.Parameter(torch.ones(0, 2))])
    optimizer = made(case, module)
    for parameter in module:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    assert torch.isfinite(parameters_of(module)).all()
    late = nn.Parameter(torch.ones(3, 2))
    optimizer.add_param_group({"params": [late], "lr": 0.0})
    late.grad = torch.ones_like(late)
    optimizer.step()
    assert torch.equal(late, torch.ones(3, 2))


SCHEDULES = {
    "one cycle": lambda optimizer, **more: OneCycleLR(optimizer, 0.05, total_steps=8, **more),
    "cyclic": lambda optimizer, **more: CyclicLR(optimizer, 0.01, 0.05, step_size_up=3, **more),
}


def scheduled(case, schedule, **more):
    """Weights after six steps under a schedule, and the values it set before each."""
    module, told = MixedShapes(), []
    optimizer = made(case, module)
    scheduler = SCHEDULES[schedule](optimizer, **more)
    for _ in range(6):
        group = optimizer.param_groups[0]
        told.append((group["lr"], group.get("momentum")))
        descend(optimizer, module, 1, falling=False)
        scheduler.step()
    return parameters_of(module), told


@pytest.mark.parametrize("schedule", SCHEDULES)
@every_case
@pytest.mark.filterwarnings("ignore:.*has no momentum")
def test_momentum_schedulers_set_the_momentum_option(case, schedule):
    """Equal to setting the rate and the option by hand."""
    found, told = scheduled(case, schedule)
    assert all(momentum is not None for _, momentum in told)
    module = MixedShapes()
    optimizer = made(case, module)
    for rate, momentum in told:
        for group in optimizer.param_groups:
            group["lr"] = rate
            if optimizer.cycled is not None:
                group[optimizer.cycled] = momentum
        descend(optimizer, module, 1, falling=False)
    assert torch.equal(found, parameters_of(module))
    without, _ = scheduled(case, schedule, cycle_momentum=False)
    assert torch.equal(found, without) == (optimizer.cycled is None)


@every_case
def test_momentum_aliases_the_matching_option(case):
    optimizer = made(case, Network())
    name = optimizer.cycled
    if name is None:
        optimizer.param_groups[0]["momentum"] = 0.0
        optimizer.step()
        with pytest.warns(UserWarning, match="has no momentum"):
            SCHEDULES["one cycle"](optimizer)
            optimizer.step()
        return
    assert optimizer.defaults["momentum"] == optimizer.defaults[name]
    assert all("momentum" not in group for group in optimizer.param_groups)
    extra = [nn.Parameter(torch.zeros(2)) for _ in range(3)]
    optimizer.add_param_group({"params": extra[:1], name: 0.25})
    optimizer.add_param_group({"params": extra[1:2], "momentum": 0.75})
    optimizer.add_param_group({"params": extra[2:]})
    found = [group[name] for group in optimizer.param_groups[-3:]]
    assert found == [0.25, 0.75, optimizer.defaults[name]]


@every_case
def test_state_dict_hooks_see_the_full_state(case):
    module = Network()
    optimizer = made(case, module)
    descend(optimizer, module, 3, falling=False)
    told = []
    optimizer.register_state_dict_pre_hook(lambda _: told.append("before"))
    optimizer.register_state_dict_post_hook(lambda _, state: {"kept": state})
    saved = optimizer.state_dict()
    assert told == ["before"] and set(saved) == {"kept"}
    other = made(case, copy.deepcopy(module))
    other.register_load_state_dict_pre_hook(lambda _, state: state["kept"])
    other.register_load_state_dict_post_hook(lambda o: told.append(len(o.state)))
    other.load_state_dict(saved)
    assert told == ["before", len(optimizer.state)]
    again = other.state_dict()
    for index, state in saved["kept"]["state"].items():
        for name, value in state.items():
            assert torch.equal(torch.as_tensor(again["state"][index][name]), torch.as_tensor(value))
