"""Mamba: a matrix memory whose elements each decay at a rate that depends on the input."""

import math
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
from nestling.core.transfer import MADE, READ
from nestling.memories.mamba.start import (
    check_steps,
    init_convolution,
    init_linear,
    init_step_bias,
)
from nestling.memories.parts import ShortConvolution, in_order
from nestling.ops.selective_scan import selective_scan


@traceable
class MambaState(NamedTuple):
    """The state of a row."""

    tail: Float[Tensor, "B W D"]  # last inputs of the short convolution
    state: Float[Tensor, "B N D"]


class Mamba(Memory):
    """The selective state-space mixer: N state elements for every channel.

        x, z = projection(input);  x = silu(convolution(x))
        r, k, q = selection(x);  delta = softplus(step(r) + step_bias)
        h <- exp(delta rate) h + k (delta x)^T,  y = h^T q + skip x     (rate = -exp(log_decay))
        output(y silu(z))

    Source: arXiv 2312.00752, Algorithm 2 and Figure 3; sizes and initialisation as in its code.
    Deviates: the write is discretised by Euler's rule, as in that code (ops/selective_scan).
    Cost: time O(T D (D + N)), state O(N D) (ops/selective_scan).
    """

    residual: ClassVar[bool] = True
    update: ClassVar[str] = "h <- exp(delta rate) h + k (delta x)^T, a decay for every number"
    source: ClassVar[str] = "arXiv 2312.00752"
    float32: ClassVar[tuple[str, ...]] = ("step_bias", "log_decay", "skip")

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Options of the memory."""

        inner_size: int | None = None  # channels inside; None: twice hidden_size
        state_size: int = 16  # state elements per channel
        step_rank: int | None = None  # rank of the map to step sizes; None: hidden_size / 16, up
        convolution: int = 4  # tokens the short convolution sees
        initial_steps: tuple[float, ...] = (0.001, 0.1)  # range of delta at the start of training
        smallest_step: float = 1e-4  # lower bound of delta at the start of training

        def __post_init__(self):
            for name in ("inner_size", "state_size", "step_rank", "convolution"):
                value = getattr(self, name)
                if value is not None and value < 1:
                    raise UserError(f"mamba.{name} must be at least 1, not {value}")
            check_steps("mamba", self.initial_steps, self.smallest_step)

    def __init__(self, config: Config, *, hidden_size: int, num_heads: int):
        super().__init__()
        self.config = config
        inner = config.inner_size or 2 * hidden_size
        self.rank = config.step_rank or math.ceil(hidden_size / 16)
        self.projection = nn.Linear(hidden_size, 2 * inner, bias=False)
        self.convolution = ShortConvolution(inner, config.convolution, bias=True)
        self.selection = nn.Linear(inner, self.rank + 2 * config.state_size, bias=False)
        self.step = nn.Linear(self.rank, inner, bias=False)
        self.step_bias = nn.Parameter(torch.empty(inner))
        self.log_decay = nn.Parameter(torch.empty(inner, config.state_size))
        self.skip = nn.Parameter(torch.empty(inner))
        self.output = nn.Linear(inner, hidden_size, bias=False)

    def init_state(self, batch: int) -> MambaState:
        """Zeros."""
        dtype = torch.promote_types(self.log_decay.dtype, torch.float32)
        inner, states = self.log_decay.shape
        zero = self.log_decay.new_zeros(batch, states, inner, dtype=dtype)
        return MambaState(self.convolution.init_tail(batch), zero)

    def forward(
        self, x: Float[Tensor, "B T D"], state: MambaState | None = None, flow: Flow = Flow()
    ) -> tuple[Float[Tensor, "B T D"], MambaState]:
        """Read and write along the sequence; ``state=None`` starts fresh."""
        state = self.init_state(len(x)) if state is None else state
        inside, gate = self.projection(x).chunk(2, dim=-1)
        inside, tail = self.convolution(inside, state.tail, flow)
        states = self.config.state_size
        low, k, q = self.selection(inside).split((self.rank, states, states), dim=-1)
        step = self.step(low)
        with torch.autocast(x.device.type, enabled=False):
            dtype = torch.promote_types(x.dtype, torch.float32)
            wide = inside.to(dtype)
            y, new = selective_scan(
                q,
                k,
                wide,
                delta=in_order(functional.softplus(step.to(dtype) + self.step_bias.to(dtype))),
                rate=-self.log_decay.to(dtype).exp().T,
                state=state.state,
                reset=flow.reset,
                mask=flow.mask,
            )
            y = (y + self.skip.to(dtype) * wide).to(x.dtype)
        return self.output(y * functional.silu(gate)), MambaState(tail, new)

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator | None = None) -> None:
        """Rates -1 .. -N in every channel, steps spread over ``initial_steps``, skip one."""
        config = self.config
        for linear in (self.projection, self.selection, self.output):
            init_linear(linear, generator)
        init_convolution(self.convolution, generator)
        bound = 1 / math.sqrt(self.rank)
        self.step.weight.uniform_(-bound, bound, generator=generator)
        init_step_bias(self.step_bias, config.initial_steps, config.smallest_step, generator)
        rates = torch.arange(1, config.state_size + 1, device=self.log_decay.device)
        self.log_decay.copy_(rates.to(self.log_decay).log().expand_as(self.log_decay))
        self.skip.fill_(1.0)

    def levels(self) -> list[Level]:
        """One level that every token writes."""
        return [
            Level(
                name="mamba",
                period=1,
                parameters=self.log_decay.numel(),
                per_sequence=True,
                objective="-<h^T k, delta x>",
                rule="gradient descent (Hebbian) with a decay for every number",
                context="pairs (k, delta x) of every token",
                transfer=(READ, MADE),
            )
        ]
