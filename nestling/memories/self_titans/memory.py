"""Self-modifying Titans: memories that produce their own keys, values and rates."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from nestling.core.error import UserError
from nestling.core.level import Level
from nestling.core.memory import Flow, Memory
from nestling.memories.parts import (
    ShortConvolution,
    half_life_bias,
    start_with_recall,
    unit,
)
from nestling.memories.period import Segment, read_by_period
from nestling.memories.self_titans.chunk import read_chunk
from nestling.memories.self_titans.decode import one_token
from nestling.memories.self_titans.kernel import all_by_kernel, fits, one_by_kernel
from nestling.memories.self_titans.layers import Layers, Readouts, apply
from nestling.memories.self_titans.levels import levels_of
from nestling.memories.self_titans.options import SelfTitansOptions
from nestling.memories.self_titans.state import SelfTitansState
from nestling.ops.self_titans import available
from nestling.ops.self_titans.token import available as token_available


class SelfTitans(Memory):
    """A memory of memories: k, v, eta, alpha (and q) come from memories that are written, too.

    There is a memory for each of k, eta, alpha, v, optionally q, and the output ``memory``. Each is
    a residual network M(x) = x + W_1 gelu(W_2 x), separate for every row and head. For every token
    each memory does:

        k = M_k(x_k)  v = M_v(x_v)  eta, alpha = sigmoid of a read-out of M_eta(x_k), M_alpha(x_k)
        v_hat = M(v), the target that each memory makes for itself
        g = gradient of |M(k) - v_hat|^2 / 2 for the output of each layer, u = the layer's input
        S <- mu S - (1 - mu) beta g u^T
        D <- alpha D - beta (D u) u^T + S,   W = W_0 + D       (W_0 the learned initial state)
        y = M_memory(q)

    k, v, q, v_hat and the inputs x have unit length; beta |u|^2 is eta <= 1 + alpha in the first
    layer and, with beta = eta / (epsilon + |u|^2), less than eta in the second. All reads but the
    output's use the state at the start of the period; inside it the recurrence is exact
    (ops/momentum_gated_delta_rule).

    Bounded: |v_hat| = |k| = 1 and the output gradient is clipped, so each write is bounded; the
    transition alpha I - beta u u^T has norm rho = max(alpha, |alpha - beta |u|^2|), below one while
    eta_max <= 1, so for any input a state stays below its largest write over 1 - rho.

    The earlier stages of the paper (Eq 76-82) are ``values="shared"``: the target of all memories
    is v itself, and the key of each is its own output; without ``adaptive`` memories it is the base
    stage.

    Source: arXiv 2512.24695, Eq 76-93 (rule and form), section 8 (convolution, normalisation).
    Options switch every part off or to another form (docs/switches.md); this is the default.

    Deviates: a projection and convolution for q, k, v before the memories; decay towards the
    learned initial state, which the eraser does not erase (``erase="whole"``: as printed; it then
    unlearns the first layer along every key, docs/log.md); a rule per layer, with that layer's
    input; the output memory is read after its write; momentum, which the paper ablates but does not
    write down. Each is an option or justified in docs/equations.md.
    Cost: time O(M d d_h) per token and head beyond the projections; state 3 M 2 d d_h per head.
    """

    update: ClassVar[str] = (
        "S <- mu S - (1 - mu) beta g u^T; D <- alpha D - beta (D u) u^T + S, in every memory"
    )
    source: ClassVar[str] = "arXiv 2512.24695 Eq 76-93"
    derived: ClassVar[Mapping[str, str]] = MappingProxyType({"opened": "anchor"})
    float32: ClassVar[tuple[str, ...]] = (
        *("initial_first", "initial_second", "eta_weight", "eta_bias"),
        *("alpha_weight", "alpha_bias", "mu_weight", "mu_bias"),
    )
    # the second layer starts small: at the usual learning rate a step would be most of its size
    rates: ClassVar[Mapping[str, float]] = {"initial_second": 0.1}

    @dataclass(frozen=True, kw_only=True)
    class Config(SelfTitansOptions):
        """Options of SelfTitans."""

    def __init__(self, config: Config, *, hidden_size: int, num_heads: int):
        super().__init__()
        if hidden_size % num_heads:
            raise UserError(f"hidden_size={hidden_size} must be a multiple of {num_heads} heads")
        self.config = config
        self.alignment = max(config.periods()) if config.writes else 1
        self.num_heads = num_heads
        width = hidden_size // num_heads
        self.names = [*config.adaptive(), "memory"]
        hidden = config.memory_hidden or width
        inner = width if config.network == "matrix" else hidden
        shape = (num_heads, len(self.names))
        self.projection = nn.Linear(hidden_size, 3 * hidden_size, bias=False)
        self.convolution = ShortConvolution(3 * hidden_size, config.convolution)
        self.gate = nn.Linear(hidden_size, hidden_size, bias=False)
        self.output = nn.Linear(hidden_size, hidden_size, bias=False)
        self.norm = nn.RMSNorm(width, eps=1e-6)
        self.initial_first = nn.Parameter(torch.empty(*shape, inner, width))
        if config.network == "mlp":
            self.initial_second = nn.Parameter(torch.empty(*shape, width, hidden))
        else:
            self.register_parameter("initial_second", None)
        rows = [] if config.rates == "head" else [inner + (config.network == "mlp") * width]
        self.eta_weight = nn.Parameter(torch.empty(num_heads, *rows, width))
        self.eta_bias = nn.Parameter(torch.empty(num_heads, *rows))
        if config.decay:
            self.alpha_weight = nn.Parameter(torch.empty(num_heads, *rows, width))
            self.alpha_bias = nn.Parameter(torch.empty(num_heads, *rows))
        if config.momentum:
            self.mu_weight = nn.Parameter(torch.empty(num_heads, hidden_size))
            self.mu_bias = nn.Parameter(torch.empty(num_heads))

    def init_weights(self, generator: torch.Generator | None = None) -> None:
        """Set every parameter such that reads and writes matter from the first step on.

        The first layer has entries of unit variance, so that unit keys give hidden values of
        order one. The second is small, so that M(x) is near x, but not zero, because the first
        would get no gradient. Queries and keys start with the same projection, and keys also see
        the previous token, so that an untrained memory already recalls what followed an earlier
        occurrence of its input.
        """
        config = self.config
        with torch.no_grad():
            for linear in (self.projection, self.gate, self.output):
                linear.weight.normal_(0, 0.02, generator=generator)
            self.convolution.init_weights(generator)
            start_with_recall(self.projection, self.convolution)
            self.norm.weight.fill_(1)
            inner, width = self.initial_first.shape[-2:]
            if self.initial_second is None:
                std = config.initial_length / math.sqrt(inner)
                self.initial_first.normal_(0, std, generator=generator)
            else:
                # E gelu(z)^2 = 0.425 for a standard normal z
                std = config.initial_length / math.sqrt(0.425 * inner * width)
                self.initial_first.normal_(0, 1, generator=generator)
                self.initial_second.normal_(0, std, generator=generator)
            rates = self._rates()
            for weight in (rates.eta_weight, rates.alpha_weight):
                if weight is not None:
                    weight.normal_(0, 0.02, generator=generator)
            ratio = config.eta_init / min(config.eta_max, 2.0)
            rates.eta_bias.fill_(math.log(ratio / (1 - ratio)))
            if rates.alpha_bias is not None:
                bias = half_life_bias(self.num_heads, *config.half_life).to(rates.alpha_bias)
                rates.alpha_bias.copy_(bias.view(-1, *(1,) * (rates.alpha_bias.ndim - 1)))
            if config.momentum:
                self.mu_weight.normal_(0, 0.02, generator=generator)
                start = config.momentum_init
                self.mu_bias.fill_(math.log(start / (1 - start)))

    def init_state(self, batch: int) -> SelfTitansState:
        """The state before the first token: every memory at its initial state."""
        weight = self._start(batch)
        zero = weight.map(torch.zeros_like)
        count = torch.zeros(batch, dtype=torch.long, device=weight.first.device)
        return SelfTitansState(self.convolution.init_tail(batch), weight, weight, zero, count)

    def _initial(self) -> Layers:
        """The learned initial states, at least float32."""
        dtype = torch.promote_types(self.initial_first.dtype, torch.float32)
        return Layers(self.initial_first, self.initial_second).map(lambda x: x.to(dtype))

    def _rates(self) -> Readouts:
        """The weights that produce the rates."""
        alpha = (self.alpha_weight, self.alpha_bias) if self.config.decay else (None, None)
        return Readouts(self.eta_weight, self.eta_bias, *alpha)

    def _start(self, batch: int) -> Layers:
        """The weights of the state at the start of a document."""
        initial = self._initial()
        if self.config.decay_to == "init":
            return initial.map(lambda x: x.new_zeros(batch, *x.shape))
        return initial.map(lambda x: x.expand(batch, *x.shape))

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        state: SelfTitansState | None = None,
        flow: Flow = Flow(),
    ) -> tuple[Float[Tensor, "B T D"], SelfTitansState]:
        """Read and write along the sequence; ``state=None`` starts fresh."""
        if state is None:
            state = self.init_state(len(x))
        projected, tail = self.convolution(self.projection(x), state.tail, flow)
        projected = projected.unflatten(-1, (3, self.num_heads, -1))
        mu = None
        if self.config.momentum:
            gated = x.to(self.mu_weight.dtype)  # the gates may have a higher precision than x
            mu = torch.sigmoid(functional.linear(gated, self.mu_weight, self.mu_bias))
        with torch.autocast(x.device.type, enabled=False):
            dtype = torch.promote_types(x.dtype, torch.float32)
            projected = projected.to(dtype)
            mu = None if mu is None else mu.to(dtype)
            alone = x.shape[1] == 1 and flow.reset is None and flow.mask is None
            if mu is not None and fits(self.config) and alone and token_available(projected):
                fixed = (self.config, self._initial(), self._rates())
                y, state = one_by_kernel(*fixed, projected, mu, state)
            elif mu is not None and fits(self.config) and x.shape[1] > 1 and available(projected):
                fixed = (self.config, self._initial(), self._rates())
                y, state = all_by_kernel(*fixed, projected, mu, state, flow)
            else:
                q, k, v = unit(projected.permute(2, 0, 3, 1, 4))
                if self.config.writes:
                    y, state = self._scan(q, k, v, None if mu is None else mu.mT, state, flow)
                else:
                    y, state = self._frozen(q, state, flow)
                y = y.transpose(1, 2)
        y = self.norm(y.to(x.dtype)).flatten(2)
        y = self.output(y * functional.silu(self.gate(x)))
        return y, state._replace(tail=tail)

    def _frozen(
        self, q: Float[Tensor, "B H T D"], state: SelfTitansState, flow: Flow
    ) -> tuple[Float[Tensor, "B H T D"], SelfTitansState]:
        """The ablation without writes: every memory stays at its initial state."""
        initial = self._initial()

        def apply_one(name: str, x: Tensor) -> Tensor:
            index = self.names.index(name)
            return apply(initial.map(lambda w: w[:, index]), x)

        if self.config.adaptive_q:
            q = unit(apply_one("q", q))
        return apply_one("memory", q), state

    def _scan(
        self,
        q: Float[Tensor, "B H T D"],
        k: Float[Tensor, "B H T D"],
        v: Float[Tensor, "B H T D"],
        mu: Float[Tensor, "B H T"] | None,
        state: SelfTitansState,
        flow: Flow,
    ) -> tuple[Float[Tensor, "B H T D"], SelfTitansState]:
        """Segment by segment; periods end only at the last token of a segment."""
        config = self.config
        initial, rates = self._initial(), self._rates()
        alone = q.shape[2] == 1 and flow.reset is None and flow.mask is None
        if alone and config.values == "own":
            return one_token(config, self.names, initial, rates, q, k, v, mu, state)
        start = None if flow.reset is None else self.init_state(len(q))
        shortest, longest = sorted(config.periods())

        def read(
            part: Segment, state: SelfTitansState
        ) -> tuple[Float[Tensor, "B H C D"], SelfTitansState]:
            tokens = (x[:, :, part.here] for x in (q, k, v))
            gate = None if mu is None else mu[:, :, part.here]
            ends = part.ends if shortest == longest else None
            fixed = (config, self.names, initial, rates)
            return read_chunk(*fixed, *tokens, gate, state, part.valid, ends)

        outputs, state = read_by_period(read, state, start, flow, q.shape[2], shortest)
        return (torch.cat(outputs, dim=2) if outputs else q), state

    @torch.no_grad()
    def reach(self, state: SelfTitansState | None = None, samples: int = 256) -> dict[str, float]:
        """Mean length of M(x) - x over random unit x, for every memory; near 0 it stores nothing.

        Measured with the first row's current weights, or without a state with the initial ones.
        """
        weight = self.init_state(1).weight
        if state is not None:
            weight = state.weight.map(lambda x: x[:1])
        if self.config.decay_to == "init":
            weight = weight.map(torch.add, self._initial())
        generator = torch.Generator().manual_seed(0)
        width = self.initial_first.shape[-1]
        x = unit(torch.randn(samples, width, generator=generator).to(weight.first))
        x = x.expand(*weight.first.shape[:3], *x.shape)
        lengths = (apply(weight, x) - x).norm(dim=-1).mean(dim=(0, 1, 3))
        return dict(zip(self.names, lengths.tolist(), strict=True))

    def levels(self) -> list[Level]:
        """Every memory, each after its momentum."""
        layers = [x for x in (self.initial_first, self.initial_second) if x is not None]
        return levels_of(self.config, self.names, sum(x[:, 0].numel() for x in layers))
