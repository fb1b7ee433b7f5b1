"""Linear attention as a memory: a running sum of all pairs, with normalised reads."""

from dataclasses import dataclass
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
    Tokens,
    head_width,
    matrix_level,
    scan,
    split_heads,
    zero_matrix,
)
from nestling.memories.parts import in_order


@traceable
class LinearAttentionState(NamedTuple):
    """The matrix of each head; its last row is the normaliser, z = sum of phi(k)."""

    weight: Float[Tensor, "B H V1 K"]


class LinearAttention(Memory):
    """Attention with weights phi(q).phi(k), phi(x) = elu(x) + 1, as a running sum.

        M <- M + v phi(k)^T     z <- z + phi(k)     y = M phi(q) / (z.phi(q) + epsilon)

    The normaliser is one more row of the matrix, whose value is always 1.

    Source: arXiv 2006.16236 and its authors' code. Deviates: linear maps without biases; no
    positions (there they are added to the embedding).
    Cost: time O(T (C + D / H) D) for chunks of C tokens; state: D^2 / H + D numbers per row.
    """

    update: ClassVar[str] = "M <- M + v phi(k)^T, z <- z + phi(k); y = M phi(q) / z.phi(q)"
    source: ClassVar[str] = "arXiv 2006.16236"

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Options of the memory."""

        epsilon: float = 1e-6  # added to the normaliser

        def __post_init__(self):
            if self.epsilon <= 0:
                raise UserError(
                    f"linear_attention.epsilon is {self.epsilon}; give a number above 0, because "
                    "the normaliser starts at zero"
                )

    def __init__(self, config: Config, *, hidden_size: int, num_heads: int):
        super().__init__()
        self.config = config
        self.num_heads = num_heads
        self.width = head_width(hidden_size, num_heads)
        self.query = nn.Linear(hidden_size, hidden_size, bias=False)
        self.key = nn.Linear(hidden_size, hidden_size, bias=False)
        self.value = nn.Linear(hidden_size, hidden_size, bias=False)
        self.output = nn.Linear(hidden_size, hidden_size, bias=False)

    def init_state(self, batch: int) -> LinearAttentionState:
        """Zeros."""
        shape = (batch, self.num_heads, self.width + 1, self.width)
        return LinearAttentionState(zero_matrix(self.key.weight, *shape))

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        state: LinearAttentionState | None = None,
        flow: Flow = Flow(),
    ) -> tuple[Float[Tensor, "B T D"], LinearAttentionState]:
        """Add each token's pair and read with its query; ``state=None`` starts fresh."""
        state = self.init_state(len(x)) if state is None else state
        maps = (self.query, self.key, self.value)
        q, k, v = (split_heads(linear(x), self.num_heads) for linear in maps)
        one = torch.ones_like(v[..., :1])
        summed = torch.cat((v, one), dim=-1)
        q, k = (in_order(functional.elu(x) + 1) for x in (q, k))
        tokens = Tokens(q, k, summed, one[..., 0])
        y, weight = scan(tokens, state.weight, flow)
        y = y[..., :-1] / (y[..., -1:] + self.config.epsilon)
        return self.output(y.to(x.dtype).flatten(-2)), LinearAttentionState(weight)

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator | None = None) -> None:
        """Normal weights of standard deviation 0.02."""
        for linear in (self.query, self.key, self.value, self.output):
            linear.weight.normal_(std=INITIAL_STD, generator=generator)

    def levels(self) -> list[Level]:
        """One matrix, written at every token."""
        size = self.num_heads * (self.width + 1) * self.width
        rule = "gradient descent of step 1"
        return [matrix_level("linear attention", "-<M phi(k), v>", rule, size)]
