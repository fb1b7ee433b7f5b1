"""Retention as a memory: a sum of pairs that decays at a fixed rate in each head."""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from nestling.core.error import UserError
from nestling.core.level import Level
from nestling.core.memory import Flow, Memory
from nestling.core.named import traceable
from nestling.memories.linear.matrix import (
    NORM_EPS,
    Tokens,
    head_width,
    matrix_level,
    scan,
    split_heads,
    zero_matrix,
)
from nestling.memories.parts import positions_of

GAIN = 2**-2.5  # gain of the initial uniform weights of q, k, v and the gate


@traceable
class RetNetState(NamedTuple):
    """The matrix of each head, and the number of tokens of the document."""

    weight: Float[Tensor, "B H V K"]
    seen: Int[Tensor, " B"]  # tokens of the document


def rotate(
    x: Float[Tensor, "B T H K"], positions: Int[Tensor, "B T"], theta: float
) -> Float[Tensor, "B T H K"]:
    """Rotate each pair of channels by its frequency times the position, halves paired.

    Frequencies go from 1 down to 1 / theta, both included. Angles are computed in float64, because
    positions of a stream grow without bound.
    """
    half = x.shape[-1] // 2
    exponent = torch.linspace(0, 1, half, dtype=torch.float64, device=x.device)
    angle = positions[..., None, None] * theta**-exponent
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    first, second = x.split(half, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


class RetNet(Memory):
    """Multi-scale retention: rotated keys and queries, and a fixed decay for each head.

        alpha_h = 1 - 2^(-5 - h), h = 0, 1, ..
        M <- alpha_h M + v k^T / sqrt K     y = swish(W_G x) * GroupNorm(M q)

    Source: arXiv 2307.08621 and its authors' code (decay, rotation, gate, values twice as wide as
    keys, initial weights). Deviates: paired channels are halves of the head, not neighbours (the
    same up to their order); without its three scalings (of q.k beyond sqrt K, of the decays, of the
    sums), which differ between the parallel and the recurrent form and which the group norm cancels
    up to its epsilon; group norm without scale and shift.
    Cost: time O(T (C + K) V H) for chunks of C tokens; state: H K V numbers per row.
    """

    update: ClassVar[str] = "M <- alpha_h M + v k^T, alpha_h = 1 - 2^(-5 - h)"
    source: ClassVar[str] = "arXiv 2307.08621"

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Options of the memory."""

        expand_value: float = 2.0  # channels of all values, as a multiple of hidden_size
        theta: float = 10000.0  # the slowest rotation takes this many times as long as the fastest

        def __post_init__(self):
            if self.theta < 1:
                raise UserError(f"retnet.theta is {self.theta}; give at least 1")

    def __init__(self, config: Config, *, hidden_size: int, num_heads: int):
        super().__init__()
        self.config = config
        self.num_heads = num_heads
        self.keys = head_width(hidden_size, num_heads, even=True)
        self.values = head_width(hidden_size * config.expand_value, num_heads)
        wide = num_heads * self.values
        self.query = nn.Linear(hidden_size, hidden_size, bias=False)
        self.key = nn.Linear(hidden_size, hidden_size, bias=False)
        self.value = nn.Linear(hidden_size, wide, bias=False)
        self.gate = nn.Linear(hidden_size, wide, bias=False)
        self.output = nn.Linear(wide, hidden_size, bias=False)

    def init_state(self, batch: int) -> RetNetState:
        """A zero matrix, at the start of a document."""
        weight = zero_matrix(self.key.weight, batch, self.num_heads, self.values, self.keys)
        return RetNetState(weight, torch.zeros(batch, dtype=torch.long, device=weight.device))

    def decay(self) -> Float[Tensor, " H"]:
        """The retention of each head, 1 - 2^(-5 - h)."""
        head = torch.arange(self.num_heads, device=self.key.weight.device, dtype=torch.float64)
        return 1 - torch.exp2(-5 - head)

    def forward(
        self, x: Float[Tensor, "B T D"], state: RetNetState | None = None, flow: Flow = Flow()
    ) -> tuple[Float[Tensor, "B T D"], RetNetState]:
        """Add each token's pair and read with its query; ``state=None`` starts fresh."""
        state = self.init_state(len(x)) if state is None else state
        maps = (self.query, self.key, self.value)
        q, k, v = (split_heads(linear(x), self.num_heads) for linear in maps)
        positions, seen = positions_of(state.seen, flow, x.shape[1])
        q = rotate(q, positions, self.config.theta)
        k = rotate(k, positions, self.config.theta) * self.keys**-0.5
        alpha = self.decay().to(v.dtype).expand(v.shape[:-1])
        y, weight = scan(Tokens(q, k, v, alpha), state.weight, flow)
        # one group of channels per head and token
        y = functional.layer_norm(y, y.shape[-1:], eps=NORM_EPS).to(x.dtype).flatten(-2)
        return self.output(functional.silu(self.gate(x)) * y), RetNetState(weight, seen)

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator | None = None) -> None:
        """Xavier uniform weights, smaller for the maps before the recurrence."""
        for linear in (self.query, self.key, self.value, self.gate):
            nn.init.xavier_uniform_(linear.weight, gain=GAIN, generator=generator)
        nn.init.xavier_uniform_(self.output.weight, generator=generator)

    def levels(self) -> list[Level]:
        """One matrix, written at every token."""
        size = self.num_heads * self.values * self.keys
        rule = "gradient descent of step 1 with fixed decay"
        return [matrix_level("retention", "-<M k, v>", rule, size)]
