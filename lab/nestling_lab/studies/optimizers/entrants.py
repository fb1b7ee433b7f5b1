"""The optimizers under comparison, each with a grid of learning rates of the same size."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from nestling.optim import M3, DeepMomentum, DeltaGD, DeltaMomentum, param_groups

STEP = 10**0.5  # ratio of neighbouring learning rates in a grid
SIZE = 5  # learning rates in every grid


def around(middle: float, lower: int = 0) -> tuple[float, ...]:
    """A grid of learning rates, spaced by the root of ten; ``lower`` adds smaller ones.

    >>> around(0.1)
    (0.01, 0.0316, 0.1, 0.316, 1.0)
    >>> around(0.1, lower=1)
    (0.00316, 0.01, 0.0316, 0.1, 0.316, 1.0)
    """
    return tuple(float(f"{middle * STEP ** (i - SIZE // 2):.3g}") for i in range(-lower, SIZE))


@dataclass(frozen=True, kw_only=True)
class Entrant:
    """An optimizer: how it is built for a module at a learning rate."""

    title: str
    build: Callable[[nn.Module, float], list[Optimizer]]
    middle: float  # of its grid of learning rates

    @property
    def rates(self) -> tuple[float, ...]:
        """The grid of learning rates."""
        return around(self.middle)


def _sgd(module: nn.Module, lr: float) -> list[Optimizer]:
    return [torch.optim.SGD(module.parameters(), lr=lr, momentum=0.9)]


def _plain(module: nn.Module, lr: float) -> list[Optimizer]:
    return [torch.optim.SGD(module.parameters(), lr=lr)]


def _adamw(module: nn.Module, lr: float) -> list[Optimizer]:
    return [torch.optim.AdamW(module.parameters(), lr=lr, weight_decay=0.0)]


def _muon(module: nn.Module, lr: float) -> list[Optimizer]:
    """Muon for hidden matrices, AdamW for the rest, at one rate, as both have Adam's step size."""
    matrices, others = split(module)
    found: list[Optimizer] = []
    if matrices:
        found.append(
            torch.optim.Muon(matrices, lr=lr, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
        )
    if others:
        found.append(torch.optim.AdamW(others, lr=lr, weight_decay=0.0))
    return found


def split(module: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """Split into hidden matrices, and all other parameters (vectors, embeddings, heads)."""
    matrices, others = [], []
    for group in param_groups(module):
        (matrices if group["name"] == "matrices" else others).extend(group["params"])
    return matrices, others


def _delta(layout: str) -> Callable[[nn.Module, float], list[Optimizer]]:
    return lambda module, lr: [
        DeltaMomentum(module.parameters(), lr=lr, layout=layout, nonfinite="ignore")
    ]


def _m3(module: nn.Module, lr: float) -> list[Optimizer]:
    return [M3(param_groups(module), lr=lr, weight_decay=0.0, nonfinite="ignore")]


def _deep(module: nn.Module, lr: float) -> list[Optimizer]:
    return [DeepMomentum(module.parameters(), lr=lr, nonfinite="ignore")]


def _delta_gd(module: nn.Module, lr: float) -> list[Optimizer]:
    return [DeltaGD(module, lr=lr, nonfinite="ignore")]


ENTRANTS = {
    "gd": Entrant(title="gradient descent", build=_plain, middle=0.1),
    "momentum": Entrant(title="momentum", build=_sgd, middle=0.0316),
    "adamw": Entrant(title="AdamW", build=_adamw, middle=3.16e-3),
    "muon": Entrant(title="Muon", build=_muon, middle=3.16e-3),
    "delta-scalar": Entrant(title="delta momentum, scalar", build=_delta("scalar"), middle=0.0316),
    "delta-row": Entrant(title="delta momentum, row", build=_delta("row"), middle=0.0316),
    "delta-matrix": Entrant(title="delta momentum, matrix", build=_delta("matrix"), middle=0.0316),
    "deep": Entrant(title="deep momentum", build=_deep, middle=3.16e-3),
    "delta-gd": Entrant(title="delta gradient descent", build=_delta_gd, middle=0.1),
    "m3": Entrant(title="M3", build=_m3, middle=3.16e-3),
}


def step_all(optimizers: list[Optimizer]) -> None:
    """Do one step of each optimizer."""
    for optimizer in optimizers:
        optimizer.step()


def clear_all(optimizers: list[Optimizer]) -> None:
    """Clear all gradients."""
    for optimizer in optimizers:
        optimizer.zero_grad()
