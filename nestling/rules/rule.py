"""Rules: how a write changes weights and the memories of their gradients.

A rule turns a gradient into a change of weights. Its fields are its constants, and its step is a
pure function of tensors whose first dimension is a batch: of rows that each write their own memory
(``nestling.rules.level``), or of parameters of the same shape (``nestling.optim``). Arguments are
never modified, and everything is differentiable.

Letters (per row and tensor): g gradient, W weight, m momentum, v mean square of gradients, n number
of the write, from 1, X inputs of a linear map (one column per token), eta learning rate.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nestling.core.error import UserError
from nestling.core.native import plain

Buffers = tuple[Tensor, ...]
Rate = Tensor | float | int

DIRECTION = "the direction of their step"
READ = f"{DIRECTION}, made orthogonal"
SIZE = "the size of their step"


@dataclass(frozen=True, kw_only=True)
class RuleOptions:
    """The constants of all rules, each with the rules that use it."""

    momentum: float = 0.9  # retention of the first memory of gradients: all but gradient and dgd
    square_momentum: float = 0.999  # retention of the mean square: adam, m3, elementwise_memory
    erase: float = 1.0  # strength of the eraser: delta_momentum, dgd (1 = as derived)
    erase_whole: bool = False  # dgd: erase the whole weight, as in the paper, or only its movement
    slow_momentum: float = 0.95  # retention of the slow memory of gradients: m3
    slow_weight: float = 0.5  # share of the slow memory in a step: m3
    slow_period: int = 16  # writes of the weights per write of the slow memory: m3
    epsilon: float = 1e-8  # added to a root mean square: adam, m3

    def __post_init__(self):
        for name in ("momentum", "square_momentum", "slow_momentum"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; give at least 0 and less than 1")
        for name in ("erase", "slow_weight", "epsilon"):
            if not getattr(self, name) >= 0:
                raise UserError(f"{name} is {getattr(self, name)}; give at least 0")
        if self.slow_period < 1:
            raise UserError(f"slow_period is {self.slow_period}; give at least 1 write")


class Evidence(NamedTuple):
    """The inputs of a write, for one tensor in every row."""

    gradient: Float[Tensor, "B *S"]
    weight: Float[Tensor, "B *S"] | None = None  # the weight that is erased
    gram: Float[Tensor, "B K K"] | None = None  # mean of x x^T over the inputs of a linear map


class GradientRecord(NamedTuple):
    """One memory of gradients, as `nestling levels` prints it."""

    name: str
    objective: str  # the objective of its own write
    rule: str  # the rule of its own write
    what: str  # what it contributes to the step of the weights
    steps: int = 1  # writes of the weights per write of its own


class Rule(ABC):
    """A rule: the change of a weight, and the memories of gradients that it needs."""

    summary: ClassVar[str]  # the update of the weights, in one line
    default_lr: ClassVar[float] = 1e-2  # a learning rate that trains, as an optimizer
    erases: ClassVar[bool] = False  # reads ``Evidence.weight`` and ``Evidence.gram``
    # whether every number is updated independently, so that a tensor can be cut anywhere
    elementwise: ClassVar[bool] = False

    @classmethod
    def of(cls, options: RuleOptions) -> "Rule":
        """The rule with the constants of a level in context."""
        return cls()

    @property
    def buffers(self) -> tuple[str, ...]:
        """The names of the tensors kept between writes, in the order of ``step``."""
        return ()

    @property
    def records(self) -> tuple[GradientRecord, ...]:
        """The memories of gradients that the buffers represent."""
        return ()

    def by_rows(self, dimensions: int) -> bool:
        """Whether the rows of a tensor with ``dimensions`` axes can be updated independently."""
        return self.elementwise

    def start(self, weight: Float[Tensor, "B *S"]) -> Buffers:
        """The buffers before the first gradient: zeros of the shape of the weight."""
        return tuple(torch.zeros_like(weight) for _ in self.buffers)

    def unread(self) -> dict[str, str]:
        """The constants without effect, because of others, each with the reason."""
        return {}

    @abstractmethod
    def step(
        self, eta: Rate, evidence: Evidence, buffers: Buffers, number: Int[Tensor, " B"]
    ) -> tuple[Float[Tensor, "B *S"], Buffers]:
        """The change of the weight, and the buffers after it."""


def wide(row: Tensor, like: Tensor) -> Tensor:
    """A value per row, reshaped to multiply a tensor with rows first."""
    return beside(row.view(-1, *(1,) * (like.ndim - 1)), like)


def beside(x: Tensor, like: Tensor) -> Tensor:
    """A replicated tensor, in a form that can be combined with a sharded one."""
    if plain(like) or not plain(x):
        return x
    from torch.distributed.tensor import DTensor, Replicate

    if not isinstance(like, DTensor):
        return x
    mesh = like.device_mesh
    return DTensor.from_local(x, mesh, [Replicate()] * mesh.ndim, run_check=False)


def length(x: Float[Tensor, "B *S"]) -> Float[Tensor, " B"]:
    """The Euclidean norm of each row; the derivative at zero is zero."""
    return x.reshape(len(x), -1).square().sum(1).clamp_min(1e-30).sqrt()


def root(square: Tensor) -> Tensor:
    """The square root; the derivative at zero is zero."""
    return square.clamp_min(1e-30).sqrt()


def bias_correction(beta: float | int, number: Int[Tensor, " B"], like: Tensor) -> Tensor:
    """1 - beta^n per row: the total weight in a running mean that started at zero."""
    share = 1 - beta ** number.clamp_min(1).double()
    return wide(share.to(like.dtype).to(like.device), like)
