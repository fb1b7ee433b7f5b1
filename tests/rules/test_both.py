"""A rule does the same as a level in context and as an optimizer."""

import dataclasses

import pytest
import torch
from tolerances import assert_close
from torch import nn

from nestling.core.error import UserError
from nestling.optim import DeltaGD, Written
from nestling.optim.build import build, default_lr, is_bare, optimizer_names
from nestling.optim.levels import records_of
from nestling.rules import RULES, RuleOptions
from nestling.rules.level import CMSLevel, gather, new_level, weights_of, write

SHAPES = [(5, 3), (4,), (2, 3, 4)]
every_rule = pytest.mark.parametrize("name", RULES)
plain_rule = pytest.mark.parametrize("name", [n for n in RULES if not RULES[n].erases])


def gradients(steps: int) -> list[list[torch.Tensor]]:
    generator = torch.Generator().manual_seed(3)
    return [
        [torch.randn(s, generator=generator, dtype=torch.float64) for s in SHAPES]
        for _ in range(steps)
    ]


def in_context(name: str, start, steps, lr: float):
    """A level with the rule in one row, written after every gradient."""
    level = CMSLevel(period=1, rule=name, lr=lr, clip=None, trust=None)
    state = new_level(level, start, 1, [0] * len(start))
    one = torch.ones(1, dtype=torch.long)
    for given in steps:
        state = gather(state, [g[None] for g in given], seen=one)
        state = write(level, start, state)
    return [w[0] for w in weights_of(start, state)]


@plain_rule
def test_in_context_level_matches_optimizer(name):
    start = [torch.ones(s, dtype=torch.float64) for s in SHAPES]
    steps = gradients(18)  # past the period of a slow memory
    weights = [nn.Parameter(w.clone()) for w in start]
    optimizer = Written(weights, lr=0.1, rule=RULES[name].of(RuleOptions()))
    for given in steps:
        for weight, g in zip(weights, given, strict=True):
            weight.grad = g.clone()
        optimizer.step()
    for weight, other in zip(weights, in_context(name, start, steps, 0.1), strict=True):
        assert_close(weight.data, other)


def test_dgd_captures_layer_inputs():
    """The only rule with an eraser: refused as a bare optimizer, naming the alternative."""
    with pytest.raises(UserError, match="DeltaGD"):
        Written([nn.Parameter(torch.ones(2, 2))], rule="dgd")
    layer = nn.Linear(3, 2, bias=False).double()
    x, lr = torch.randn(7, 3, generator=torch.Generator().manual_seed(0)).double(), 0.5
    start = layer.weight.detach().clone()
    optimizer = DeltaGD(layer, lr=lr)
    layer(x).square().sum().div(7).backward()
    gradient = layer.weight.grad.clone()
    optimizer.step()
    options = RuleOptions(erase_whole=True)
    level = CMSLevel(period=1, rule="dgd", lr=lr, clip=None, trust=None, options=options)
    state = new_level(level, [start], 1, [3])
    one = torch.ones(1, dtype=torch.long)
    state = gather(state, [gradient[None]], seen=one, gram=[(x.T @ x / 7)[None]])
    assert_close(layer.weight.data, weights_of([start], write(level, [start], state))[0][0])


@every_rule
def test_rules_declare_their_state(name):
    rule = RULES[name].of(RuleOptions())
    weight = torch.zeros(2, 4, 3)
    kept = rule.start(weight)
    assert len(kept) == len(rule.buffers) and all(not x.any() for x in kept)
    assert bool(rule.records) == bool(rule.buffers) and rule.summary
    assert all(record.objective and record.rule and record.what for record in rule.records)


@plain_rule
def test_elementwise_rules_can_be_split_anywhere(name):
    rule = RULES[name].of(RuleOptions())
    if not rule.elementwise:
        return
    torch.manual_seed(0)
    g, weight = torch.randn(1, 6), torch.zeros(1, 6)
    from nestling.rules import Evidence

    one = torch.ones(1, dtype=torch.long)
    whole, _ = rule.step(0.1, Evidence(g), rule.start(weight), one)
    parts = [
        rule.step(0.1, Evidence(g[:, a : a + 2]), rule.start(weight[:, a : a + 2]), one)[0]
        for a in (0, 2, 4)
    ]
    assert torch.equal(whole, torch.cat(parts, 1))


@pytest.mark.parametrize("name", [n for n in RULES if is_bare(n)])
def test_registered_rule_is_an_optimizer(name):
    assert name in optimizer_names()
    weight = nn.Parameter(torch.ones(3, 3))
    optimizer = build(name, nn.Identity(), [{"params": [weight]}], lr=default_lr(name))
    weight.square().sum().backward()
    optimizer.step()
    assert weight.square().sum() < 9 and records_of(optimizer)[1] == RULES[name]().records


def test_rules_are_dataclasses_compared_by_value():
    for kind in RULES.values():
        assert dataclasses.is_dataclass(kind) and kind() == kind()
