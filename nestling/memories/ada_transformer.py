"""AdaTransformer as a memory: attention, and in place of the MLP a matrix written in context."""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nestling.core.error import UserError
from nestling.core.level import Level
from nestling.core.memory import Flow, Memory
from nestling.core.named import traceable
from nestling.core.transfer import LEARNED, Transfer
from nestling.memories.attention import Attention, AttentionState
from nestling.memories.linear.delta import soft_unit
from nestling.memories.linear.matrix import (
    INITIAL_STD,
    NORM_EPS,
    Tokens,
    head_width,
    in_full,
    matrix_level,
    scan,
    split_heads,
    zero_matrix,
)


@traceable
class AdaTransformerState(NamedTuple):
    """The state of a row: the key-value pairs, and the matrix minus its learned start."""

    pairs: AttentionState
    weight: Float[Tensor, "B G K K"]


class AdaTransformer(Memory):
    """A Transformer block whose MLP is a matrix written in context (Linear Attention++).

        y = Attention(q, k, v),   M_t = M_{t-1} + rate v_t u(k_t)^T,   M_0 learned
        out = W_o RMSNorm(M_t y_t)

    M uses the keys and values of the attention before it; its query is the output of attention.
    With ``rate = 0`` it is a Transformer block with a linear MLP.

    Source: arXiv 2512.24695, Eq 21, 69 and Figure 3, which leave out norms and residuals. Deviates:
    one matrix per head (``matrices=1``: one for all channels, as printed); one learned rate for all
    tokens; keys of unit length (u), not rotated; a norm and W_o, and a residual around both.
    Slip: Eq 69 applies M as y M, which would look up the key of a value.
    Cost: attention's, plus 3 E^2 / matrices per token for E channels over all heads; state: the
    pairs, and a copy of M per row.
    """

    residual: ClassVar[bool] = True
    update: ClassVar[str] = "keep every pair (k, v); M <- M + rate v k^T; y = M Attention(q, k, v)"
    source: ClassVar[str] = "arXiv 2512.24695 Eq 21, 69"
    float32: ClassVar[tuple[str, ...]] = ("initial_matrix", "rate")
    grows: ClassVar[frozenset[str]] = Attention.grows

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Options of the memory."""

        head_size: int | None = None  # channels of a head; None: hidden_size / heads
        rope_theta: float = 10000.0  # base of the rotation's wavelengths
        matrices: int | None = None  # matrices that share the channels; None: one per head
        rate_init: float = 0.1  # strength of a write at the start of training

    def __init__(self, config: Config, *, hidden_size: int, num_heads: int):
        super().__init__()
        self.config = config
        options = Attention.Config(head_size=config.head_size, rope_theta=config.rope_theta)
        self.attention = Attention(options, hidden_size=hidden_size, num_heads=num_heads)
        self.matrices = num_heads if config.matrices is None else config.matrices
        if self.matrices < 1:
            raise UserError(f"ada_transformer: matrices is {self.matrices}; give at least 1")
        channels = num_heads * self.attention.head_size
        self.width = head_width(channels, self.matrices)
        self.initial_matrix = nn.Parameter(torch.empty(self.matrices, self.width, self.width))
        self.rate = nn.Parameter(torch.empty(self.matrices))
        self.norm = nn.RMSNorm(channels, eps=NORM_EPS)

    def init_state(self, batch: int) -> AdaTransformerState:
        """No pairs, and the matrix at its learned initial value."""
        weight = zero_matrix(self.initial_matrix, batch, *self.initial_matrix.shape)
        return AdaTransformerState(self.attention.init_state(batch), weight)

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        state: AdaTransformerState | None = None,
        flow: Flow = Flow(),
    ) -> tuple[Float[Tensor, "B T D"], AdaTransformerState]:
        """Attend, write the pairs into the matrix, and query it with the output of attention."""
        state = self.init_state(len(x)) if state is None else state
        q, k, v, tail = self.attention.project(x, state.pairs.tail, flow)
        y, pairs = self.attention.answer(q, k, v, state.pairs._replace(tail=tail), flow)
        key, value, query = (split_heads(z, self.matrices) for z in (k.flatten(2), v.flatten(2), y))
        written = in_full(self.rate)[:, None] * value
        tokens = Tokens(query, soft_unit(key), written, torch.ones_like(query[..., 0]))
        read, weight = scan(tokens, state.weight, flow)
        read = read + torch.einsum("btgk,gvk->btgv", query, in_full(self.initial_matrix))
        y = self.norm(read.flatten(2).to(x.dtype))
        return self.attention.output(y), AdaTransformerState(pairs, weight)

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator | None = None) -> None:
        """Normal weights of standard deviation 0.02."""
        self.attention.init_weights(generator)
        self.initial_matrix.normal_(std=INITIAL_STD, generator=generator)
        self.rate.fill_(self.config.rate_init)
        self.norm.weight.fill_(1)

    def levels(self) -> list[Level]:
        """Attention, and the matrix that is written at every token."""
        given = (
            Transfer(kind="direct", partner="attention", what="its query is that output"),
            Transfer(kind="context generation", partner="attention", what="its keys and values"),
            LEARNED,
        )
        rule = "one step: M <- M + rate v k^T"
        matrix = matrix_level(
            "linear attention++", "-<M k, v>", rule, self.initial_matrix.numel(), given
        )
        return [*self.attention.levels(), matrix]
