"""Build optimizers by name."""

from collections.abc import Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer

from nestling.core.error import UserError, did_you_mean
from nestling.optim import OPTIMIZERS, Written
from nestling.rules import RULES, Rule


def optimizer_names() -> list[str]:
    """The names of optimizers with their own class, then of the rules without one."""
    return OPTIMIZERS.names() + [name for name in RULES if is_bare(name)]


def is_bare(name: str) -> bool:
    """Whether the name is that of a rule without an optimizer class of its own."""
    return name in RULES and name not in OPTIMIZERS.names() and not RULES[name].erases


def kind_of(name: str) -> Any:
    """The class of an optimizer, or its rule; an unknown name raises UserError."""
    if is_bare(name):
        return RULES[name]
    if name not in OPTIMIZERS.names():
        raise UserError(f"unknown optimizer {name!r}: {did_you_mean(name, optimizer_names())}")
    return OPTIMIZERS.load(name)


def default_lr(name: str) -> float:
    """The default learning rate of an optimizer."""
    return kind_of(name).default_lr


def build(
    name: str,
    module: nn.Module,
    groups: Sequence[dict[str, Any]],
    *,
    lr: float | int,
    betas: tuple[float | int, float | int] = (0.9, 0.95),
) -> Optimizer:
    """Build an optimizer by name for groups of a module's parameters; ``betas`` are AdamW's.

    A group's ``rate_factor`` multiplies ``lr``, for every optimizer.

    >>> layer = nn.Linear(2, 2)
    >>> groups = [{"params": layer.parameters()}]
    >>> type(build("m3", layer, groups, lr=1e-3)).__name__
    'M3'
    >>> build("muon", layer, [{"params": layer.parameters()}], lr=1e-3).rule({})
    Muon(alpha=0.9)
    """
    kind = kind_of(name)
    groups = [
        group | {"lr": lr * group["rate_factor"]} if "rate_factor" in group else group
        for group in groups
    ]
    if issubclass(kind, Rule):
        return Written(groups, lr=lr, rule=kind())
    return kind.of_module(module, groups, lr=lr, betas=betas)
