"""Mamba-2: a matrix memory per head, which decays at a rate that depends on the input."""

from collections.abc import Mapping
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
from nestling.ops.momentum_gated_delta_rule import DeltaState, momentum_gated_delta_rule

EPSILON = 1e-5  # epsilon of the gated norm, as published


@traceable
class Mamba2State(NamedTuple):
    """The state of a row."""

    tail: Float[Tensor, "B W C"]  # last inputs of the short convolution
    weight: Float[Tensor, "B H V K"]


class Mamba2(Memory):
    """The mixer of state-space duality: linear attention with one decay per head and token.

        z, x, k, q, r = projection(input);  x, k, q = silu(convolution(x, k, q))
        delta = softplus(r + step_bias),  alpha = exp(-delta exp(log_decay))       for each head
        W <- alpha W + (delta x) k^T,  y = W q + skip x
        output(norm * RMSNorm(y silu(z)))

    k and q (B and C in the paper) are shared by the heads of a group, and the norm is taken over
    each group's channels. The heads are inner_size / head_size; the model's num_heads is not used.

    Source: arXiv 2405.21060, section 7 and Figure 6; initialisation as in its code. Deviates:
    nothing.
    Cost: time O(T D (D + N + C)) in chunks of C tokens, state O(N D) (ops, without an eraser).
    """

    residual: ClassVar[bool] = True
    update: ClassVar[str] = "W <- alpha W + (delta x) k^T, a decay for every head"
    source: ClassVar[str] = "arXiv 2405.21060"
    float32: ClassVar[tuple[str, ...]] = ("step_bias", "log_decay", "skip")
    # trains best at half the learning rate of embedding and head (docs/hope-defaults.md)
    rates: ClassVar[Mapping[str, float]] = {"": 0.5}

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Options of the memory."""

        inner_size: int | None = None  # channels inside; None: twice hidden_size
        head_size: int = 64  # channels of a head
        state_size: int = 128  # state elements per channel: the width of keys
        groups: int = 1  # groups of heads; the heads of a group share keys and queries
        convolution: int = 4  # tokens the short convolution sees
        initial_decay: tuple[float, ...] = (1.0, 16.0)  # range of exp(log_decay) at the start
        initial_steps: tuple[float, ...] = (0.001, 0.1)  # range of delta at the start of training
        smallest_step: float = 1e-4  # lower bound of delta at the start of training

        def __post_init__(self):
            for name in ("inner_size", "head_size", "state_size", "groups", "convolution"):
                value = getattr(self, name)
                if value is not None and value < 1:
                    raise UserError(f"mamba2.{name} must be at least 1, not {value}")
            decay = self.initial_decay
            if len(decay) != 2 or not 0 < decay[0] <= decay[1]:
                raise UserError(
                    f"mamba2.initial_decay must be two positive rates, the smaller first, "
                    f"not {decay}"
                )
            check_steps("mamba2", self.initial_steps, self.smallest_step)

    def __init__(self, config: Config, *, hidden_size: int, num_heads: int):
        super().__init__()
        self.config = config
        self.inner = config.inner_size or 2 * hidden_size
        if self.inner % (config.head_size * config.groups):
            raise UserError(
                f"mamba2: {self.inner} channels do not split into {config.groups} groups of heads "
                f"of {config.head_size}: change inner_size, head_size or groups"
            )
        self.heads = self.inner // config.head_size
        self.keys = config.groups * config.state_size
        mixed = self.inner + 2 * self.keys
        self.projection = nn.Linear(hidden_size, self.inner + mixed + self.heads, bias=False)
        self.convolution = ShortConvolution(mixed, config.convolution, bias=True)
        self.step_bias = nn.Parameter(torch.empty(self.heads))
        self.log_decay = nn.Parameter(torch.empty(self.heads))
        self.skip = nn.Parameter(torch.empty(self.heads))
        self.norm = nn.Parameter(torch.empty(self.inner))
        self.output = nn.Linear(self.inner, hidden_size, bias=False)

    def init_state(self, batch: int) -> Mamba2State:
        """Zeros."""
        dtype = torch.promote_types(self.log_decay.dtype, torch.float32)
        shape = (batch, self.heads, self.config.head_size, self.config.state_size)
        zero = self.log_decay.new_zeros(shape, dtype=dtype)
        return Mamba2State(self.convolution.init_tail(batch), zero)

    def forward(
        self, x: Float[Tensor, "B T D"], state: Mamba2State | None = None, flow: Flow = Flow()
    ) -> tuple[Float[Tensor, "B T D"], Mamba2State]:
        """Read and write along the sequence; ``state=None`` starts fresh."""
        state = self.init_state(len(x)) if state is None else state
        mixed = self.inner + 2 * self.keys
        gate, mixture, step = self.projection(x).split((self.inner, mixed, self.heads), dim=-1)
        mixture, tail = self.convolution(mixture, state.tail, flow)
        with torch.autocast(x.device.type, enabled=False):
            dtype = torch.promote_types(x.dtype, torch.float32)
            y, weight = self._scan(mixture.to(dtype), step.to(dtype), state.weight, flow)
            y = self._normalise(y * functional.silu(gate.to(dtype))).to(x.dtype)
        return self.output(y), Mamba2State(tail, weight)

    def _scan(
        self,
        mixture: Float[Tensor, "B T C"],
        step: Float[Tensor, "B T H"],
        weight: Float[Tensor, "B H V K"],
        flow: Flow,
    ) -> tuple[Float[Tensor, "B T I"], Float[Tensor, "B H V K"]]:
        config = self.config
        inside, k, q = mixture.split((self.inner, self.keys, self.keys), dim=-1)
        inside = inside.unflatten(-1, (self.heads, config.head_size))
        k, q = (part.unflatten(-1, (config.groups, config.state_size)) for part in (k, q))
        if config.groups > 1:
            k, q = (part.repeat_interleave(self.heads // config.groups, dim=2) for part in (k, q))
        delta = in_order(functional.softplus(step + self.step_bias.to(step)))
        y, new = momentum_gated_delta_rule(
            q,
            k,
            delta[..., None] * inside,
            alpha=torch.exp(-delta * self.log_decay.to(step).exp()),
            state=DeltaState(weight, weight.new_zeros(()).expand_as(weight)),
            reset=flow.reset,
            mask=flow.mask,
        )
        y = y + self.skip.to(y)[:, None] * inside
        return y.flatten(-2), new.weight

    def _normalise(self, y: Float[Tensor, "B T I"]) -> Float[Tensor, "B T I"]:
        grouped = y.unflatten(-1, (self.config.groups, -1))
        grouped = functional.rms_norm(grouped, grouped.shape[-1:], eps=EPSILON)
        return grouped.flatten(-2) * self.norm.to(y)

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator | None = None) -> None:
        """Decay rates uniform over ``initial_decay``, steps over ``initial_steps``, skip one."""
        config = self.config
        for linear in (self.projection, self.output):
            init_linear(linear, generator)
        init_convolution(self.convolution, generator)
        init_step_bias(self.step_bias, config.initial_steps, config.smallest_step, generator)
        low, high = config.initial_decay
        self.log_decay.uniform_(low, high, generator=generator).log_()
        self.skip.fill_(1.0)
        self.norm.fill_(1.0)

    def levels(self) -> list[Level]:
        """One level that every token writes."""
        return [
            Level(
                name="mamba2",
                period=1,
                parameters=self.inner * self.config.state_size,
                per_sequence=True,
                objective="-<W k, delta x>",
                rule="gradient descent (Hebbian) with a decay for every head",
                context="pairs (k, delta x) of every token",
                transfer=(READ, MADE),
            )
        ]
