"""Every option of a rule or optimizer changes a result or is refused."""

import dataclasses
import functools
import inspect
from typing import Any

import checks
import pytest
import torch
from optimizer_problems import build
from torch import nn

from nestling.core.error import UserError
from nestling.optim import OPTIMIZERS, Written, sweep
from nestling.optim.base import GradientMemory
from nestling.optim.build import is_bare
from nestling.rules import RULES, RuleOptions
from nestling.rules.level import CMSLevel, gather, new_level, write

STEPS = 4
# other values of the options of rules and optimizers
CONSTANTS: dict[str, tuple] = {
    "adjust_lr": ("original", "none"),
    "alpha": (0.4,),
    "beta1": (0.4,),
    "beta2": (0.4,),
    "coefficients": ((1.0, -0.5),),
    "decay_norm": ("soft", "clamp", "none"),
    "decay_scale": (0.2,),
    "eps": (0.5,),
    "erase": (0.3,),
    "eta": (0.2,),
    "eta_decay": (0.1,),
    "exponent": (0.8,),
    "features": ("polynomial",),
    "form": ("explicit", "cr"),
    "hidden": (5,),
    "inner": ("huber", "dot"),
    "layout": ("scalar", "matrix"),
    "learn_rows": (2,),
    "lr": (0.02,),
    "maximize": (True,),
    "nesterov": (False,),
    "ns_dtype": (torch.bfloat16,),
    "ns_precision": ("float32",),
    "ns_steps": (2,),
    "orthogonal": (False,),
    "output": ("sign", "tanh"),
    "preconditioner": ("covariance",),
    "preconditioner_beta": (0.3,),
    "preconditioner_every": (2,),
    "reduction": ("sum",),
    "ridge": (0.5,),
    "scale": (0.2,),
    "seed": (5,),
    "skip": (0.9,),
    "slow": (((2, 0.9, 0.7),),),
    "style": ("paper", "delta"),
    "target": ("square",),
    "update_norm": ("none", "pre", "adamuon"),
    "weight_decay": (2.0,),
    "weighting": ("sum",),
    "width": (4,),
}
# no effect for finite gradients: handling of non-finite ones
NO_RESULT = ("nonfinite",)
NARROW = ("ns_dtype", "ns_precision")  # float64 is multiplied in float64
# what "auto" means with another option
SAME = {("decay_norm", "soft", "layout", "scalar"), ("layout", "scalar", "decay_norm", "soft")}
# additional settings of an option, so that it takes effect within a few steps
BESIDE = {"preconditioner": {"preconditioner_every": 3}}

Option = tuple[str, Any]


class Layers(nn.Module):
    """A layer of each kind with its own inputs; gradients do not depend on the weights."""

    def __init__(self, dtype: torch.dtype):
        super().__init__()
        self.linear, self.table = nn.Linear(3, 4), nn.Embedding(4, 3)
        self.convolution = nn.Conv1d(2, 3, 2, bias=False)
        for seed, p in enumerate(self.parameters()):
            p.data = draw(*p.shape, seed=seed).to(dtype)

    def forward(self, step: int) -> torch.Tensor:
        """A loss that is linear in the weights; its gradients vary from step to step."""
        dtype = self.linear.weight.dtype
        x, series = 0.5 * draw(6, 3, seed=step), 0.5 * draw(2, 2, 4, seed=step)
        looked_up = self.table(torch.tensor([step % 4, 1]))
        found = [self.linear(x.to(dtype)), looked_up, self.convolution(series.to(dtype))]
        signs = [1 + draw(*y.shape, seed=step + 9).to(dtype) for y in found]
        return sum(c * (y * z).sum() for c, y, z in zip((0.1, 0.5, 1), found, signs, strict=True))


def draw(*shape: int, seed: int) -> torch.Tensor:
    """Normal numbers, in float64."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


@functools.cache
def gradients(dtype: torch.dtype) -> list[list[torch.Tensor]]:
    """The gradients of all parameters at every step."""
    module = Layers(dtype)
    weights = list(module.parameters())
    return [list(torch.autograd.grad(module(step), weights)) for step in range(STEPS)]


def trained(make: Any, options: dict[str, Any], dtype: torch.dtype) -> list[torch.Tensor] | None:
    """Parameters after some steps; None if the options are refused."""
    module = Layers(dtype)
    for name in options:
        options = BESIDE.get(name, {}) | options
    try:
        optimizer = make(module, options)
    except UserError:
        return None
    for step in range(STEPS):
        optimizer.zero_grad()
        if optimizer.hears_inputs:
            module(step).backward()
        else:
            for p, gradient in zip(module.parameters(), gradients(dtype)[step], strict=True):
                p.grad = gradient.clone()
        optimizer.step()
    return [p.detach() for p in module.parameters()]


def is_switch(option: Option) -> bool:
    """Whether an option with this value is one that others may depend on."""
    name, value = option
    return isinstance(value, bool | str) and name not in ("maximize", *NARROW)


@checks.at_rest()
def check(make: Any, names: list[str]) -> None:
    """Every other value of the options, alone and with every switch."""
    options = [(name, value) for name in names for value in CONSTANTS[name]]
    found = functools.cache(lambda chosen, dtype: trained(make, dict(chosen), dtype))
    refused, wrong = set(options), []
    for option in options:
        dtype = torch.float32 if option[0] in NARROW else torch.float64
        for beside in ((), *((o,) for o in options if is_switch(o) and o[0] != option[0])):
            before = found(frozenset(beside), dtype)
            after = found(frozenset({option, *beside}), dtype)
            if before is None or after is None:
                continue
            refused.discard(option)
            if same(after, before) and not SAME & {(*option, *other) for other in beside}:
                wrong.append(f"{option} changes nothing beside {beside}")
    wrong += [f"{option} is refused beside everything" for option in refused]
    assert not wrong, "\n".join(wrong)


def same(one: Any, other: Any) -> bool:
    """Whether two trainings ended equal up to rounding."""
    rtol = 1e-5 if one[0].dtype == torch.float32 else 1e-10
    return all(
        torch.allclose(a, b, rtol=rtol, atol=0.1 * rtol) for a, b in zip(one, other, strict=True)
    )


OURS = [n for n in OPTIMIZERS.names() if issubclass(OPTIMIZERS.load(n), GradientMemory)]
COMPILED = [n for n in OURS if OPTIMIZERS.load(n).at_once]


@pytest.mark.parametrize("name", [*OURS, *(f"{name} in torch" for name in COMPILED)])
def test_every_option_of_an_optimizer_changes_a_result_or_is_refused(name, monkeypatch):
    name, _, in_torch = name.partition(" ")
    if in_torch:
        monkeypatch.setattr(sweep, "available", lambda: False)
    known = inspect.signature(OPTIMIZERS.load(name).__init__).parameters
    names = [n for n in known if n not in ("self", "params", "module", *NO_RESULT)]
    check(lambda module, options: build(name, module, **{"lr": 0.01} | options), names)


# the others have an optimizer with their constants
@pytest.mark.parametrize("name", [n for n in RULES if is_bare(n)])
def test_every_constant_of_a_rule_changes_a_result_or_is_refused(name):
    kind = RULES[name]
    check(
        lambda module, options: Written(module.parameters(), lr=0.01, rule=kind(**options)),
        [field.name for field in dataclasses.fields(kind)],
    )


# so that a slow momentum takes effect within a few writes
SLOW = {"slow_momentum": {"slow_period": 2}, "slow_weight": {"slow_period": 2}}


@pytest.mark.parametrize("name", RULES)
def test_every_constant_of_a_level_is_used_by_its_rule_or_refused(name):
    start = [draw(4, 3, seed=1), draw(4, seed=2)]

    def after(options: dict[str, Any]) -> list[torch.Tensor] | None:
        try:
            level = CMSLevel(period=2, rule=name, trust=None, options=RuleOptions(**options))
        except UserError as error:
            assert "no effect" in str(error)
            return None
        state = new_level(level, start, 1, (3, 0))
        for seed in range(6):
            taken = [draw(1, *w.shape, seed=seed) for w in start]
            x = draw(6, 3, seed=seed)
            gram = [(x.T @ x)[None], torch.zeros(1, 0, 0)] if level.written_by.erases else ()
            seen = torch.full((1,), 2)
            state = write(level, start, gather(state, taken, seen=seen, gram=gram))
        return list(state.moved)

    other = {field.name: field.default / 2 for field in dataclasses.fields(RuleOptions)}
    for option, value in (other | {"erase_whole": True, "epsilon": 0.5, "slow_period": 2}).items():
        beside = SLOW.get(option, {}) if name == "m3" else {}
        moved = after(beside | {option: value})
        assert moved is None or not same(moved, after(beside)), option
