"""Arguments with which an optimizer equals one of torch's or another of ours."""

import pytest
import torch
from optimizer_problems import MixedShapes, Network
from tolerances import assert_close

from nestling.optim import (
    M3,
    DeltaGD,
    DeltaMomentum,
    ElementwiseMemory,
    FeatureMomentum,
    NonlinearMomentum,
)

# ours with options, and its equal with options; torch's eps is set where ours has none
REDUCTIONS = {
    "delta momentum without its decay is SGD with momentum": (
        (DeltaMomentum, {"alpha": 0.9, "eta_decay": 0.0}),
        (torch.optim.SGD, {"momentum": 0.9}),
    ),
    "the same, in the scalar layout": (
        (DeltaMomentum, {"alpha": 0.8, "eta_decay": 0.0, "layout": "scalar"}),
        (torch.optim.SGD, {"momentum": 0.8}),
    ),
    "the same, in the matrix layout": (
        (DeltaMomentum, {"alpha": 0.8, "eta_decay": 0.0, "layout": "matrix"}),
        (torch.optim.SGD, {"momentum": 0.8}),
    ),
    "delta momentum of unit gradients, scalar, forgets a constant more": (
        (DeltaMomentum, {"alpha": 0.9, "eta_decay": 0.3, "layout": "scalar", "decay_norm": "unit"}),
        (torch.optim.SGD, {"momentum": 0.6}),
    ),
    "momentum of the gradient itself is SGD with momentum": (
        (FeatureMomentum, {"alpha": 0.9, "exponent": 1}),
        (torch.optim.SGD, {"momentum": 0.9}),
    ),
    "M3 without orthogonalisation and slow level is Adam": (
        (M3, {"orthogonal": False, "slow": (), "beta1": 0.8, "beta2": 0.95, "eps": 1e-6}),
        (torch.optim.Adam, {"betas": (0.8, 0.95), "eps": 1e-6}),
    ),
    "the same, with weight decay, is AdamW": (
        (M3, {"orthogonal": False, "slow": (), "weight_decay": 0.3}),
        (torch.optim.AdamW, {"weight_decay": 0.3}),
    ),
    "the best elementwise memory is Adam with one beta": (
        (ElementwiseMemory, {"beta1": 0.9, "beta2": 0.9, "ridge": 1e-30}),
        (torch.optim.Adam, {"betas": (0.9, 0.9), "eps": 1e-15}),
    ),
    "of plain sums and the newest gradient it is AdaGrad": (
        (ElementwiseMemory, {"beta1": 0.0, "weighting": "sum", "ridge": 1e-30}),
        (torch.optim.Adagrad, {"eps": 1e-15}),
    ),
    "of the newest gradient it is Adam without momentum, RMSProp that counts what it saw": (
        (ElementwiseMemory, {"beta1": 0.0, "beta2": 0.9, "ridge": 1e-30}),
        (torch.optim.Adam, {"betas": (0.0, 0.9), "eps": 1e-15}),
    ),
}


def weights_after(kind, options, steps=12, lr=0.01):
    module = MixedShapes()
    optimizer = kind(module.parameters(), lr=lr, **options)
    for _ in range(steps):
        optimizer.zero_grad()
        module().backward()
        optimizer.step()
    return torch.cat([p.detach().flatten() for p in module.parameters()])


@pytest.mark.parametrize("name", REDUCTIONS)
def test_reduction(name):
    ours, theirs = REDUCTIONS[name]
    assert_close(weights_after(*ours), weights_after(*theirs))


def test_rmsprop_up_to_bias_correction():
    """torch's RMSprop has no bias correction: the steps differ by that factor."""
    kind, options = ElementwiseMemory, {"beta1": 0.0, "beta2": 0.9, "ridge": 1e-30}
    weight = torch.nn.Parameter(torch.ones(5, dtype=torch.float64))
    twin = torch.nn.Parameter(torch.ones(5, dtype=torch.float64))
    ours = kind([weight], lr=0.01, **options)
    theirs = torch.optim.RMSprop([twin], lr=0.01, alpha=0.9, eps=1e-15)
    generator = torch.Generator().manual_seed(0)
    for step in range(1, 6):
        before = weight.detach().clone(), twin.detach().clone()
        weight.grad = torch.randn(5, generator=generator, dtype=torch.float64)
        twin.grad = weight.grad.clone()
        ours.step()
        theirs.step()
        seen = (1 - 0.9**step) ** 0.5
        assert_close(weight - before[0], (twin - before[1]) * seen)


def test_delta_gd_without_decay_is_sgd():
    module, twin = Network(), Network()
    ours = DeltaGD(module, lr=0.1, decay_scale=0.0)
    theirs = torch.optim.SGD(twin.parameters(), lr=0.1)
    for _ in range(5):
        for one, optimizer in ((module, ours), (twin, theirs)):
            optimizer.zero_grad()
            one().backward()
            optimizer.step()
    for p, q in zip(module.parameters(), twin.parameters(), strict=True):
        assert_close(p, q)


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("adjust", ["original", "match_rms_adamw"])
@pytest.mark.parametrize("shape", [(24, 40), (40, 24)])
def test_linear_memory_read_through_newton_schulz_is_muon(shape, adjust, nesterov):
    """To the accuracy of Muon's own bfloat16: 2e-2 of the moved distance."""
    start = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    ours, theirs = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.clone())
    one = NonlinearMomentum([ours], lr=0.02, alpha=0.9, nesterov=nesterov, adjust_lr=adjust)
    options = {"momentum": 0.9, "weight_decay": 0.0, "adjust_lr_fn": adjust}
    other = torch.optim.Muon([theirs], lr=0.02, nesterov=nesterov, **options)
    generator = torch.Generator().manual_seed(1)
    for _ in range(6):
        ours.grad = torch.randn(shape, generator=generator)
        theirs.grad = ours.grad.clone()
        one.step()
        other.step()
    error = (ours - theirs).detach().norm() / (theirs.detach() - start).norm()
    assert error <= 2e-2, f"{float(error):.2g} of the way is not within 2e-2"
