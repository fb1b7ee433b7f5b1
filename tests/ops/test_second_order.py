"""Second-order gradients are correct or refused with an error, never silently incomplete."""

import pytest
import torch

from nestling.core.error import UserError
from nestling.core.gradient import refused
from nestling.core.memory import Flow
from nestling.memories.deep.again import Again
from nestling.memories.parts import ShortConvolution
from nestling.memories.self_titans import SelfTitans
from nestling.memories.ttt import TTTMLP, TTTLinear
from nestling.ops import diagonal_delta_rule, momentum_gated_delta_rule, selective_scan
from nestling.ops.diagonal_delta_rule import OP as DIAGONAL
from nestling.ops.momentum_gated_delta_rule import OP as MOMENTUM
from nestling.ops.momentum_gated_delta_rule import compiled
from nestling.ops.selective_scan import OP as SELECTIVE
from nestling.ops.selective_scan.inputs import rates
from nestling.ops.short_convolution import available

DOUBLE = torch.zeros(1, dtype=torch.float64)
LENGTH = 5
RESET = torch.tensor([[0, 0, 1, 0, 0], [0, 0, 0, 0, 1]]).bool()


def delta(beta: bool, momentum: bool, **options):
    """The recurrence as a function of its tensors; without options and momentum it is compiled."""
    tokens = MOMENTUM.inputs(0, length=LENGTH, momentum=momentum)
    if not beta:
        del tokens["beta"]

    def function(*tensors):
        named = dict(zip(tokens, tensors, strict=True))
        y, state = momentum_gated_delta_rule(**named, **options)
        return (y, *(state if momentum else state[:1]))

    return function, tuple(tokens.values())


def selective(**options):
    tokens = SELECTIVE.inputs(0, length=LENGTH)

    def function(rate, *tensors):
        return selective_scan(**dict(zip(tokens, tensors, strict=True)), rate=rate, **options)

    return function, (rates(), *tokens.values())


def diagonal():
    tokens = DIAGONAL.inputs(0, length=LENGTH)

    def function(*tensors):
        y, state = diagonal_delta_rule(**dict(zip(tokens, tensors, strict=True)))
        return y, state.weight

    return function, tuple(tokens.values())


def convolution():
    module = ShortConvolution(3, bias=True).double()
    module.init_weights(torch.Generator().manual_seed(0))
    x = torch.randn(2, LENGTH, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def function(x, weight, bias):
        given = {"weight": weight, "bias": bias}
        inputs = (x, module.init_tail(2), Flow(reset=RESET))
        return torch.func.functional_call(module, given, inputs)[0]

    return function, (x, module.weight.detach(), module.bias.detach())


def anew():
    def twice(x, y):
        return x * y.exp(), y.square()

    return lambda x, y: Again.apply(twice, x, y), (torch.ones(3).double(), torch.ones(3).double())


FOUND = {
    "delta rule, compiled": lambda: delta(True, False),
    "no eraser, compiled": lambda: delta(False, False),
    "momentum": lambda: delta(True, True, chunk_size=2),
    "momentum, no eraser": lambda: delta(False, True, chunk_size=2, reset=RESET),
    "selective scan": lambda: selective(chunk_size=2),
    "selective scan, resets": lambda: selective(reset=RESET),
    "diagonal": diagonal,
    "short convolution": convolution,
    "made anew": anew,
}


@pytest.mark.parametrize("name", FOUND)
def test_gradgradcheck(name):
    function, inputs = FOUND[name]()
    inputs = tuple(x.detach().requires_grad_() for x in inputs)
    assert torch.autograd.gradgradcheck(function, inputs, fast_mode=True)


@pytest.mark.parametrize("name", FOUND)
def test_gradient_penalty_of_a_sum(name):
    """As for a sum, whose incoming gradient is ones without history."""
    function, inputs = FOUND[name]()
    inputs = tuple(x.detach().requires_grad_() for x in inputs)

    def penalty(*tensors):
        outputs = function(*tensors)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        total = sum(y.sum() for y in outputs)
        grads = torch.autograd.grad(total, tensors, create_graph=True, allow_unused=True)
        return sum(g.square().sum() for g in grads if g is not None)

    assert torch.autograd.gradcheck(penalty, inputs, fast_mode=True)


MEMORIES = {
    "self_titans": (SelfTitans, SelfTitans.Config(period=4, projection_period=4)),
    "ttt_linear": (TTTLinear, TTTLinear.Config(mini_batch=4)),
    "ttt_mlp": (TTTMLP, TTTMLP.Config(mini_batch=4)),
}
needs_compiler = pytest.mark.skipif(not available(DOUBLE), reason="no C++ compiler here")


@needs_compiler
@pytest.mark.parametrize("loss", [torch.sum, lambda y: y.square().sum()])
@pytest.mark.parametrize("name", MEMORIES)
def test_compiled_scans_refuse_second_order(name, loss):
    kind, config = MEMORIES[name]
    memory = kind(config, hidden_size=8, num_heads=2).double()
    memory.init_weights(torch.Generator().manual_seed(0))
    x = torch.randn(2, 6, 8, dtype=torch.float64).requires_grad_()
    given = (x, *memory.parameters())
    grads = torch.autograd.grad(loss(memory(x)[0]), given, create_graph=True, allow_unused=True)
    grads = [g for g in grads if g is not None]
    assert refused(grads)
    total = sum(g.sum() for g in grads) + x.sum()
    for inputs in (given, [x]):
        with pytest.raises(UserError, match="first order only.*NESTLING_NATIVE=0"):
            torch.autograd.grad(total, inputs, allow_unused=True, retain_graph=True)
    with pytest.raises(UserError, match="first order only"):
        total.backward()


@needs_compiler
@pytest.mark.parametrize("name", MEMORIES)
def test_torch_forms_support_second_order(name, monkeypatch):
    monkeypatch.setenv("NESTLING_NATIVE", "0")
    kind, config = MEMORIES[name]
    memory = kind(config, hidden_size=4, num_heads=1).double()
    memory.init_weights(torch.Generator().manual_seed(0))
    x = torch.randn(1, 6, 4, dtype=torch.float64).requires_grad_()

    def penalty(x):
        (grad,) = torch.autograd.grad(memory(x)[0].sum(), x, create_graph=True)
        return grad.square().sum()

    assert torch.autograd.gradcheck(penalty, (x,), fast_mode=True)


def test_create_graph_leaves_first_order_gradients_unchanged():
    function, inputs = delta(True, False)
    inputs = tuple(x.requires_grad_() for x in inputs)
    assert compiled.available(DOUBLE) in (True, False)
    plain, kept = (
        torch.autograd.grad(function(*inputs)[0].sum(), inputs, create_graph=graph)
        for graph in (False, True)
    )
    for one, two in zip(plain, kept, strict=True):
        torch.testing.assert_close(one, two)
    assert not refused(kept)
