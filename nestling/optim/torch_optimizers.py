"""torch's own optimizers, each with a default learning rate and its rule."""

from typing import Any, ClassVar

import torch
from torch import nn

from nestling import rules
from nestling.optim.states import Watched
from nestling.rules import GradientRecord, Rule

Groups = list[dict[str, Any]]


class AdamW(Watched, torch.optim.AdamW):
    """AdamW: Adam with decoupled weight decay."""

    name = "adamw"
    parts = ("step", "exp_avg", "exp_avg_sq")
    default_lr: ClassVar[float] = 3e-3

    @classmethod
    def of_module(cls, module: nn.Module, groups: Groups, *, lr: float | int, betas: Any) -> Any:
        """Build for groups of a module's parameters."""
        return cls(groups, lr=lr, betas=betas)


class Momentum(Watched, torch.optim.SGD):
    """SGD with momentum 0.9."""

    name = "momentum"
    parts = ("momentum_buffer",)
    default_lr: ClassVar[float] = 0.1

    @classmethod
    def of_module(cls, module: nn.Module, groups: Groups, *, lr: float | int, betas: Any) -> Any:
        """Build for groups of a module's parameters."""
        return cls(groups, lr=lr, momentum=0.9)


class SGD(Watched, torch.optim.SGD):
    """SGD without momentum."""

    name = "sgd"
    parts = ()
    default_lr: ClassVar[float] = 0.3

    @classmethod
    def of_module(cls, module: nn.Module, groups: Groups, *, lr: float | int, betas: Any) -> Any:
        """Build for groups of a module's parameters."""
        return cls(groups, lr=lr)


def rule_of_torch(optimizer: torch.optim.Optimizer) -> tuple[str, Rule] | None:
    """Name and rule of one of torch's optimizers; None if its rule is not known."""
    if isinstance(optimizer, torch.optim.Adam):  # AdamW derives from it
        return "adamw", rules.Adam()
    if isinstance(optimizer, torch.optim.SGD):
        alpha = optimizer.defaults["momentum"]
        return ("momentum", rules.Momentum(alpha=alpha)) if alpha else ("sgd", rules.Gradient())
    return None


def records_of_torch(optimizer: torch.optim.Optimizer) -> tuple[str, tuple[GradientRecord, ...]]:
    """Name and memories of gradients of one of torch's optimizers; none known for any other."""
    found = rule_of_torch(optimizer)
    return (found[0], found[1].records) if found else (type(optimizer).__name__.lower(), ())
