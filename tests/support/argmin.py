"""Random numbers and numerical minima, to check closed forms."""

import torch


def drawn(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def minimum(loss, start, steps=200):
    """The minimiser of a smooth convex function, by Newton's method."""
    x = start.clone().flatten()
    for _ in range(steps):
        gradient = torch.func.grad(lambda x: loss(x.view(start.shape)))(x)
        if gradient.norm() < 1e-13:
            break
        hessian = torch.func.hessian(lambda x: loss(x.view(start.shape)))(x)
        x = x - torch.linalg.solve(hessian, gradient)
    return x.view(start.shape)


def outer(a, b):
    return torch.stack([torch.stack([x * y for y in b]) for x in a])
