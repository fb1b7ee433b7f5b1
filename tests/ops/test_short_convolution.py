"""The compiled short convolution against torch, with gradients."""

import pytest
import torch
from tolerances import assert_close

from nestling.core import native
from nestling.core.memory import Flow
from nestling.memories.parts import ShortConvolution
from nestling.ops.short_convolution import available

pytestmark = pytest.mark.skipif(
    not available(torch.zeros(1)), reason="no C++ compiler on this machine"
)


def both_ways(monkeypatch, dtype, channels, length, width, flow, **options):
    generator = torch.Generator().manual_seed(0)
    module = ShortConvolution(channels, width, **options).to(dtype)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(generator=generator)
    x = torch.randn(2, length, channels, generator=generator, dtype=dtype, requires_grad=True)
    tail = torch.randn(2, width - 1, channels, generator=generator, dtype=dtype)
    tail.requires_grad_()
    results = []
    for switch in ("1", "0"):
        monkeypatch.setenv(native.SWITCH, switch)
        y, after = module(x, tail, flow)
        weights = torch.linspace(-1, 1, y.numel(), dtype=dtype).view_as(y)
        loss = (y * weights).sum() + after.sum()
        results.append([y, after, *torch.autograd.grad(loss, [x, tail, *module.parameters()])])
    return zip(*results, strict=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("channels", [5, 64, 100])
@pytest.mark.parametrize("length", [2, 3, 17])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("options", [{}, {"bias": True, "activation": False}])
def test_equals_torch(dtype, channels, length, packed, options, monkeypatch):
    flow = Flow()
    if packed:
        reset = torch.zeros(2, length, dtype=torch.bool)
        reset[0, 1] = reset[1, length - 1] = True
        flow = Flow(reset=reset)
    for found, expected in both_ways(monkeypatch, dtype, channels, length, 4, flow, **options):
        assert_close(found, expected)


def test_one_token_wide(monkeypatch):
    for found, expected in both_ways(monkeypatch, torch.float64, 7, 5, 1, Flow()):
        assert_close(found, expected)
