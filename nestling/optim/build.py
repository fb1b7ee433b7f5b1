"""Optimizers by name, for a model that is to be trained."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.optim import Optimizer

from nestling.core.error import UserError, did_you_mean


class Choice(NamedTuple):
    """A rate that trains, and how the optimizer is made."""

    lr: float
    make: str  # "torch", or the name in OPTIMIZERS


# rates of the update direction: about 1e-3 where a step is normalised, more where it is a gradient
CHOICES: dict[str, Choice] = {
    "adamw": Choice(3e-3, "torch"),
    "momentum": Choice(0.1, "torch"),
    "sgd": Choice(0.3, "torch"),
    "m3": Choice(1e-3, "m3"),
    "delta_momentum": Choice(0.3, "delta_momentum"),
    "nonlinear_momentum": Choice(3e-3, "nonlinear_momentum"),
    "feature_momentum": Choice(1e-2, "feature_momentum"),
    "deep_momentum": Choice(1e-3, "deep_momentum"),
    "delta_gd": Choice(0.3, "delta_gd"),
    "elementwise_memory": Choice(3e-3, "elementwise_memory"),
}


def choice(name: str) -> Choice:
    """The entry of a name; an unknown one raises UserError."""
    if name not in CHOICES:
        raise UserError(f"unknown optimizer {name!r}: {did_you_mean(name, CHOICES)}")
    return CHOICES[name]


def build(
    name: str,
    module: nn.Module,
    groups: Sequence[dict[str, Any]],
    *,
    lr: float | int,
    betas: tuple[float | int, float | int] = (0.9, 0.95),
) -> Optimizer:
    """The optimizer of a name for groups of a module's parameters; ``betas`` are AdamW's.

    >>> layer = nn.Linear(2, 2)
    >>> type(build("m3", layer, [{"params": layer.parameters()}], lr=1e-3)).__name__
    'M3'
    """
    from nestling.optim import OPTIMIZERS

    made = choice(name).make
    if made != "torch":
        kind = OPTIMIZERS.load(made)
        return kind(module, params=groups, lr=lr) if name == "delta_gd" else kind(groups, lr=lr)
    if name == "adamw":
        return torch.optim.AdamW(groups, lr=lr, betas=betas)
    return torch.optim.SGD(groups, lr=lr, momentum=0.9 if name == "momentum" else 0.0)
