"""Small problems for every registered optimizer."""

import math

import torch
from torch import nn
from variation import seed_unshifted, unshifted

from nestling.optim import OPTIMIZERS


class Quadratic(nn.Module):
    """tr((W - W*)^T H (W - W*)) / 2 with curvatures from 0.1 to 1."""

    def __init__(self):
        super().__init__()
        generator = unshifted(0)
        self.goal = torch.randn(6, 4, generator=generator, dtype=torch.float64)
        self.curvature = torch.linspace(0.1, 1, 6, dtype=torch.float64)[:, None]
        self.weight = nn.Parameter(torch.zeros(6, 4, dtype=torch.float64))

    def forward(self):
        return (self.curvature * (self.weight - self.goal).square()).sum() / 2


class Rosenbrock(nn.Module):
    """(1 - x)^2 + 100 (y - x^2)^2 from (-1, 1); zero at (1, 1)."""

    def __init__(self):
        super().__init__()
        self.point = nn.Parameter(torch.tensor([-1.0, 1.0], dtype=torch.float64))

    def forward(self):
        x, y = self.point
        return (1 - x).square() + 100 * (y - x.square()).square()


class MixedShapes(nn.Module):
    """Least squares through a convolution of rank 5, a matrix, a vector and a scalar."""

    def __init__(self):
        super().__init__()
        self.model = self.draw(0)
        with torch.no_grad():
            self.target = self.draw(1)(self.inputs())

    def inputs(self):
        generator = unshifted(2)
        return torch.randn(24, 2, 3, 3, 3, generator=generator, dtype=torch.float64)

    def draw(self, seed):
        seed_unshifted(seed)
        body = [nn.Conv3d(2, 4, 2), nn.Flatten(), nn.Linear(32, 3, bias=False), Scale()]
        return nn.Sequential(*body).double()

    def forward(self):
        return (self.model(self.inputs()) - self.target).square().mean()


class Scale(nn.Module):
    """A number for all outputs and one for each of three."""

    def __init__(self):
        super().__init__()
        self.all, self.each = nn.Parameter(torch.ones(())), nn.Parameter(torch.ones(3))

    def forward(self, x):
        return self.all * self.each * x


class Network(nn.Module):
    """Classify an embedded pair by quadrant: an embedding, a hidden layer, a head."""

    def __init__(self, dtype=torch.float64):
        super().__init__()
        seed_unshifted(0)
        self.table, self.hidden = nn.Embedding(8, 6), nn.Linear(12, 16)
        self.head = nn.Linear(16, 4)
        self.to(dtype)
        pairs = torch.cartesian_prod(torch.arange(8), torch.arange(8))
        self.register_buffer("pairs", pairs)
        self.register_buffer("answers", 2 * (pairs[:, 0] > 3).long() + (pairs[:, 1] > 3).long())

    def forward(self):
        hidden = torch.tanh(self.hidden(self.table(self.pairs).flatten(1)))
        return nn.functional.cross_entropy(self.head(hidden), self.answers)


PROBLEMS = {
    "quadratic": (Quadratic, 200),
    "rosenbrock": (Rosenbrock, 1500),
    "mixed shapes": (MixedShapes, 300),
    "network": (Network, 150),
}


def build(name, module, **options):
    """A registered optimizer for all parameters of a module."""
    kind = OPTIMIZERS.load(name)
    return kind(module if name == "delta_gd" else module.parameters(), **options)


def descend(optimizer, module, steps, *, falling=True, until=0.0):
    """Losses along some steps, with the rate decaying to zero as a half cosine.

    Ends early at a loss below the fraction ``until`` of the first.
    """
    losses, rates = [], [group["lr"] for group in optimizer.param_groups]
    for step in range(steps):
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            factor = (1 + math.cos(math.pi * step / steps)) / 2
            group["lr"] = rate * factor if falling else rate
        optimizer.zero_grad()
        loss = module()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
        if losses[-1] < until * losses[0]:
            return losses
    with torch.no_grad():
        return [*losses, float(module())]
