"""Delta gradient descent: where it converges, and which inputs it captures."""

import copy

import pytest
import torch
from tolerances import assert_close
from torch import nn

from nestling.optim import DeltaGD, DeltaMomentum, Leveled
from nestling.optim.captured import patches


def least_squares():
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(40, 4, generator=generator, dtype=torch.float64)
    return X, X @ torch.randn(4, 3, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("form", ["exact", "explicit"])
@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0])
def test_least_squares_converges_to_shrunken_solution(form, scale):
    """The minimiser of L + (s / 2) E |W x|^2 is the solution over 1 + s: half of it for s = 1."""
    X, Y = least_squares()
    layer = nn.Linear(4, 3, bias=False).double()
    optimizer = DeltaGD(layer, lr=0.3, form=form, decay_scale=scale)
    for _ in range(400):
        optimizer.zero_grad()
        ((layer(X) - Y).square().sum(1) / 2).mean().backward()
        optimizer.step()
    solution = torch.linalg.lstsq(X, Y).solution.T
    assert_close(layer.weight.detach(), solution / (1 + scale))


def test_network_converges_where_decay_balances_gradient():
    scale, (X, Y) = 0.5, least_squares()
    torch.manual_seed(0)
    first, second = nn.Linear(4, 5, bias=False).double(), nn.Linear(5, 3, bias=False).double()
    module = nn.Sequential(first, nn.Tanh(), second)
    optimizer = DeltaGD(module, lr=0.1, decay_scale=scale)
    for _ in range(1000):
        optimizer.zero_grad()
        (module(X) - Y).square().sum(1).mean().backward()
        optimizer.step()
    optimizer.zero_grad()
    (module(X) - Y).square().sum(1).mean().backward()
    for layer, x in ((first, X), (second, torch.tanh(first(X)).detach())):
        decay = scale * layer.weight.detach() @ (x.mT @ x) / len(x)
        assert decay.norm() > 0.1
        # not converged yet: within a hundredth after these steps
        assert (layer.weight.grad + decay).norm() < 2e-2 * decay.norm()


class Tied(nn.Module):
    """An embedding tied to the head."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.table, self.head = nn.Embedding(5, 3, padding_idx=0), nn.Linear(3, 5, bias=False)
        self.head.weight = self.table.weight
        self.double()

    def forward(self, ids):
        return self.head(self.table(ids))


def test_tied_weight_decays_for_both_uses():
    module, ids = Tied(), torch.tensor([[1, 2, 2], [4, 0, 1]])
    W, eta, scale = module.table.weight.detach().clone(), 0.4, 0.7
    optimizer = DeltaGD(module, lr=eta, decay_scale=scale)
    nn.functional.cross_entropy(module(ids).flatten(0, 1), ids.flatten()).backward()
    G = module.table.weight.grad.clone()
    optimizer.step()
    V, x = module.table.weight.detach(), W[ids.flatten()]
    counts = torch.tensor([0.0, 2, 2, 0, 1]).double()[:, None] / 6
    # the gradient of the proximal problem is zero
    left = G + scale * (V @ (x.mT @ x) / 6 + counts * V) + (V - W) / eta
    assert left.abs().max() < 1e-9


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv1d(4, 6, 3, padding=1, stride=2, dilation=2, groups=2, bias=False), (2, 4, 9)),
        (
            nn.Conv2d(3, 5, (2, 3), padding="same", padding_mode="circular", bias=False),
            (2, 3, 5, 6),
        ),
        (nn.Conv2d(3, 5, 2, padding=1, bias=False), (3, 4, 4)),
        (nn.Conv3d(2, 4, 2, bias=False), (3, 2, 3, 4, 3)),
    ],
)
def test_patches_reproduce_convolution(layer, shape):
    layer = layer.double()
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    W = layer.weight.unflatten(0, (layer.groups, -1)).flatten(2)
    y = patches(layer, x) @ W.mT
    want = layer(x) if x.ndim == layer.weight.ndim else layer(x)[None]
    want = want.unflatten(1, (layer.groups, -1)).movedim((1, 2), (0, -1)).reshape(y.shape)
    assert_close(y, want)


def test_only_inputs_with_gradients_are_captured():
    layer = nn.Linear(2, 2)
    optimizer = DeltaGD(layer)
    layer(torch.ones(1, 2))
    with torch.no_grad():
        layer(torch.ones(1, 2))
    assert not optimizer._capture.contexts
    layer(torch.ones(1, 2)).sum().backward()
    assert optimizer._capture.contexts[layer.weight].rows == 1
    optimizer.zero_grad()
    assert not optimizer._capture.contexts
    optimizer.close()
    layer(torch.ones(1, 2)).sum().backward()
    assert not optimizer._capture.contexts


def test_accumulated_batches_equal_one_batch():
    X, Y = least_squares()
    weights = []
    for parts in (1, 4):
        torch.manual_seed(0)
        layer = nn.Linear(4, 3).double()
        optimizer = DeltaGD(layer, lr=0.5)
        for x, y in zip(X.chunk(parts), Y.chunk(parts), strict=True):
            ((layer(x) - y).square().mean() / parts).backward()
        optimizer.step()
        weights.append(layer.weight.detach())
    assert_close(*weights)


def test_leveled_keeps_inputs_of_slow_levels():
    X, _ = least_squares()
    torch.manual_seed(0)
    layer = nn.Linear(4, 3, bias=False).double()
    twin = copy.deepcopy(layer)
    groups = [{"params": [layer.weight], "period": 2}]
    slow = Leveled(DeltaGD(layer, lr=0.5, params=groups), tokens_per_step=1)
    for x in X.chunk(2):
        slow.zero_grad()
        layer(x).square().mean().backward()
        slow.step()
    at_once = DeltaGD(twin, lr=0.5)
    twin(X).square().mean().backward()
    at_once.step()
    assert_close(layer.weight.detach(), twin.weight.detach())


def test_copied_module_is_not_captured():
    layer = nn.Linear(2, 2)
    optimizer = DeltaGD(layer)
    twin = copy.deepcopy(layer)
    twin(torch.ones(1, 2)).sum().backward()
    assert not optimizer._capture.contexts


def test_passing_parameters_is_a_type_error():
    with pytest.raises(TypeError, match="DeltaGD takes a module"):
        DeltaGD(nn.Linear(2, 2).parameters())
    with pytest.raises(TypeError):
        DeltaMomentum(nn.Linear(2, 2))
