"""The base of the delta family: projections, convolutions, norm and gate around a rule."""

import math
from abc import abstractmethod
from collections.abc import Callable
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from nestling.core.error import UserError
from nestling.core.level import Level
from nestling.core.memory import Flow, Memory
from nestling.core.named import traceable
from nestling.memories.linear.matrix import (
    INITIAL_STD,
    NORM_EPS,
    Tokens,
    in_full,
    matrix_level,
    scan,
    split_heads,
    zero_matrix,
)
from nestling.memories.parts import ShortConvolution, in_order

UNIT_EPS = 1e-6  # added to the squared length of queries and keys
RATE = (0.01, 16.0)  # range of A at the start of training; above zero, for its logarithm is kept
STEP = (1e-3, 1e-1)  # range of softplus(alpha_bias) at the start of training


@traceable
class MatrixState(NamedTuple):
    """The state of a row: the last inputs of the convolution, and the matrix of each head."""

    tail: Float[Tensor, "B W C"]
    weight: Float[Tensor, "B H V K"]


def soft_unit(x: Float[Tensor, "*N D"]) -> Float[Tensor, "*N D"]:
    """Scale the last dimension to just below unit length, x / sqrt(|x|^2 + 1e-6)."""
    return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + UNIT_EPS)


class Retention(nn.Module):
    """The retention of each head at a token: alpha = exp(-A softplus(W x + alpha_bias)).

    A = exp(log_rate) > 0, so alpha lies in (0, 1].

    Source: arXiv 2412.06464 (after Mamba-2), initial values of its public code. Cost: O(T D H).
    """

    FLOAT32: ClassVar[tuple[str, ...]] = ("log_rate", "alpha_bias")  # see Memory.float32

    def __init__(self, hidden_size: int, num_heads: int):
        super().__init__()
        self.step = nn.Linear(hidden_size, num_heads, bias=False)
        self.log_rate = nn.Parameter(torch.empty(num_heads))
        self.alpha_bias = nn.Parameter(torch.empty(num_heads))

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T H"]:
        """The retention at every token, in float32 at least."""
        step = in_order(functional.softplus(in_full(self.step(x)) + self.alpha_bias))
        return torch.exp(-in_full(self.log_rate).exp() * step)

    def init_weights(self, generator: torch.Generator | None = None) -> None:
        """A uniform in [0.01, 16], steps log-uniform in [0.001, 0.1]."""
        self.step.weight.normal_(std=INITIAL_STD, generator=generator)
        self.log_rate.uniform_(*RATE, generator=generator).log_()
        self.alpha_bias.uniform_(*map(math.log, STEP), generator=generator).exp_()
        # the inverse of softplus
        self.alpha_bias.expm1_().log_()


class CorrectedMemory(Memory):
    """A matrix per head that each token corrects, rather than adds to.

    Queries, keys and values are linear maps of the input, followed by a short convolution and SiLU.
    Subclasses define in ``recur`` what is written, erased and read. The read is normalised per head
    (RMS, weights shared by the heads) and, if the subclass has one, multiplied by a gate.
    """

    kind: ClassVar[str]  # name of the level
    minimised: ClassVar[str]  # its objective
    convolution: ShortConvolution

    def __init__(
        self,
        *,
        hidden_size: int,
        num_heads: int,
        keys: int,
        values: int,
        convolution: int,
        gate: Callable[[Tensor], Tensor] | None,
    ):
        """``keys`` and ``values`` are channels per head."""
        super().__init__()
        if convolution < 1:
            raise UserError(f"convolution is {convolution}; give at least 1 token")
        self.num_heads = num_heads
        self.keys = keys
        self.values = values
        narrow, wide = num_heads * self.keys, num_heads * self.values
        self.query = nn.Linear(hidden_size, narrow, bias=False)
        self.key = nn.Linear(hidden_size, narrow, bias=False)
        self.value = nn.Linear(hidden_size, wide, bias=False)
        self.beta = nn.Linear(hidden_size, num_heads, bias=False)
        self.convolution = ShortConvolution(2 * narrow + wide, convolution)
        self.norm = nn.RMSNorm(self.values, eps=NORM_EPS)
        self.gate = None if gate is None else nn.Linear(hidden_size, wide, bias=False)
        self.activation = gate
        self.output = nn.Linear(wide, hidden_size, bias=False)

    @abstractmethod
    def recur(
        self,
        x: Float[Tensor, "B T D"],
        q: Float[Tensor, "B T H K"],
        k: Float[Tensor, "B T H K"],
        v: Float[Tensor, "B T H V"],
        weight: Float[Tensor, "B H V K"],
        flow: Flow,
    ) -> tuple[Float[Tensor, "B T H V"], Float[Tensor, "B H V K"]]:
        """The read after each token, and the final matrix; q, k, v come from the convolution."""

    def init_state(self, batch: int) -> MatrixState:
        """A zero matrix and an empty convolution."""
        weight = zero_matrix(self.key.weight, batch, self.num_heads, self.values, self.keys)
        return MatrixState(self.convolution.init_tail(batch), weight)

    def forward(
        self, x: Float[Tensor, "B T D"], state: MatrixState | None = None, flow: Flow = Flow()
    ) -> tuple[Float[Tensor, "B T D"], MatrixState]:
        """Correct the matrix at each token and read it; ``state=None`` starts fresh."""
        state = self.init_state(len(x)) if state is None else state
        joined = torch.cat((self.query(x), self.key(x), self.value(x)), dim=-1)
        joined, tail = self.convolution(joined, state.tail, flow)
        narrow = self.num_heads * self.keys
        parts = joined.split((narrow, narrow, self.num_heads * self.values), dim=-1)
        q, k, v = (split_heads(part, self.num_heads) for part in parts)
        y, weight = self.recur(x, q, k, v, state.weight, flow)
        y = self.norm(y.to(x.dtype)).flatten(-2)
        if self.gate is not None and self.activation is not None:
            y = y * self.activation(self.gate(x))
        return self.output(y), MatrixState(tail, weight)

    def init_frame(self, generator: torch.Generator | None = None) -> None:
        """Initialise the shared parts: normal weights of standard deviation 0.02, norm at one."""
        for linear in (self.query, self.key, self.value, self.beta, self.gate, self.output):
            if linear is not None:
                linear.weight.normal_(std=INITIAL_STD, generator=generator)
        self.convolution.init_weights(generator)
        self.norm.weight.fill_(1)

    def levels(self) -> list[Level]:
        """One matrix, written at every token."""
        size = self.num_heads * self.values * self.keys
        return [matrix_level(self.kind, self.minimised, f"one step: {self.update}", size)]


class DeltaMemory(CorrectedMemory):
    """A matrix per head that is corrected towards each token's value.

    Subclasses define in ``tokens`` what is written and erased, with queries and keys of unit
    length. The read is scaled by 1 / sqrt K. Stable: beta |k| |p| <= 1 + alpha in every subclass.
    """

    minimised: ClassVar[str] = "|M k - v|^2 / 2"

    @abstractmethod
    def tokens(
        self,
        x: Float[Tensor, "B T D"],
        q: Float[Tensor, "B T H K"],
        k: Float[Tensor, "B T H K"],
        v: Float[Tensor, "B T H V"],
    ) -> Tokens:
        """The inputs of the recurrence, from x, and from q, k, v after the convolution."""

    def recur(
        self,
        x: Float[Tensor, "B T D"],
        q: Float[Tensor, "B T H K"],
        k: Float[Tensor, "B T H K"],
        v: Float[Tensor, "B T H V"],
        weight: Float[Tensor, "B H V K"],
        flow: Flow,
    ) -> tuple[Float[Tensor, "B T H V"], Float[Tensor, "B H V K"]]:
        """Write and erase as ``tokens`` says, and read."""
        tokens = self.tokens(x, q, k, v)
        return scan(tokens._replace(q=tokens.q * self.keys**-0.5), weight, flow)
