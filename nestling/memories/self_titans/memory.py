"""Self-modifying Titans: a memory that produces its own keys, values and rates, and writes all."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from nestling.core.error import UserError
from nestling.core.level import Level
from nestling.core.memory import Flow, Memory
from nestling.core.network import gelu_and_slope
from nestling.memories.parts import (
    ShortConvolution,
    half_life_bias,
    start_with_recall,
    unit,
)
from nestling.memories.segments import segments
from nestling.memories.self_titans.decode import Readouts, move_on, one_token
from nestling.memories.self_titans.layers import Layers, apply, apply_through, shift_through
from nestling.ops.momentum_gated_delta_rule import DeltaState
from nestling.ops.momentum_gated_delta_rule.chunk import (
    Coefficients,
    close,
    coefficients,
    erase,
    erased_inverse,
    read,
)
from nestling.ops.momentum_gated_delta_rule.passes import (
    read_rows,
    read_rows_back,
    read_rows_of_last,
)
from nestling.ops.self_titans import LONGEST, TOKENS, Options, available, cut, group_of, scan
from nestling.ops.self_titans.token import available as token_available
from nestling.ops.self_titans.token import token

CHOICES = {
    "network": ("mlp", "matrix"),
    "objective": ("l2", "dot"),
    "rule": ("dgd", "gd"),
    "read": ("post", "pre", "anchor"),
    "decay_to": ("init", "zero"),
    "erase": ("deviation", "whole"),
}


class SelfTitansState(NamedTuple):
    """All that a row carries from one call to the next.

    Weights are deviations from the learned initial state (with ``decay_to="zero"``: the weights
    themselves). ``anchor`` opened the running period, ``weight`` and ``momentum`` are where the
    recurrence stands inside it, ``count`` is the tokens of the row's document so far. ``opened``
    is the anchor added to the initial state, once decoding has needed it: it holds nothing of its
    own, and without it (None) it is summed anew.
    """

    tail: Float[Tensor, "B W C"]
    anchor: Layers
    weight: Layers
    momentum: Layers
    count: Int[Tensor, " B"]
    opened: Layers | None = None


class SelfTitans(Memory):
    """A memory of memories: k, v, eta, alpha (and q) come from memories that are written too.

    For every token, memory by memory (k, eta, alpha, v, optionally q, and the output ``memory``),
    each a residual network M(x) = x + W_1 gelu(W_2 x) of its own for every row and head:

        k = M_k(x_k)  v = M_v(x_v)  eta, alpha = sigmoid of a read-out of M_eta(x_k), M_alpha(x_k)
        v_hat = M(v), the target that each memory makes for itself
        g = gradient of |M(k) - v_hat|^2 / 2 for the output of each layer, u = the layer's input
        S <- mu S - (1 - mu) beta g u^T
        D <- alpha D - beta (D u) u^T + S,   W = W_0 + D       (W_0 the learned initial state)
        y = M_memory(q)

    k, v, q, v_hat and the inputs x are of unit length; beta |u|^2 is eta <= 1 + alpha in the first
    layer and, by beta = eta / (epsilon + |u|^2), below it in the second. All reads but the last are
    made at the state that opened the period; inside it the recurrence is exact
    (ops/momentum_gated_delta_rule).

    Bounded: |v_hat| = |k| = 1 and the output gradient is clipped, so each write is bounded; the
    transition alpha I - beta u u^T has norm rho = max(alpha, |alpha - beta |u|^2|), below one while
    eta_max <= 1, so a state stays below its largest write over 1 - rho whatever is read.

    Source: arXiv 2512.24695, Eq 83-93 (rule and form), section 8 (convolution, normalisation).
    Deviates: own projection and convolution for q, k, v before the memories; decay towards the
    learned initial state, and an eraser that spares it (``erase="whole"``: as printed; it then
    unlearns the first layer along every key that is read, docs/log.md); per-layer rule with each
    layer's own input; post read of the output
    memory; momentum, which the paper ablates but does not write down. Each is an option or
    argued in docs/equations.md.
    Cost: time O(M d d_h) a token and head beyond the projections; state 3 M 2 d d_h for each head.
    """

    update: ClassVar[str] = (
        "S <- mu S - (1 - mu) beta g u^T; D <- alpha D - beta (D u) u^T + S, in every memory"
    )
    source: ClassVar[str] = "arXiv 2512.24695 Eq 83-93"

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Options of SelfTitans."""

        period: int = 32  # tokens between two anchors of the output memory
        projection_period: int = 32  # tokens between two anchors of all other memories
        writes: bool = True  # False: every memory stays at its initial state
        momentum: bool = True  # normalised momentum, from a head on the input
        adaptive_q: bool = False  # True: q comes from a memory as well
        network: str = "mlp"  # "mlp": two layers; "matrix": one
        memory_hidden: int | None = None  # units of the hidden layer; None: the head width
        objective: str = "l2"  # what a write minimises: "l2" or "dot"
        rule: str = "dgd"  # "dgd": with the eraser; "gd": without
        read: str = "post"  # moment of the output read: "post", "pre" or "anchor"
        decay_to: str = "init"  # "init": the learned initial state; "zero": as printed
        erase: str = "deviation"  # what the eraser sees: what was written, or the whole weight
        eta_max: float = 1.0  # largest write strength, at most 2
        eta_init: float = 0.2  # write strength at the start of training
        half_life: tuple[float, float] = (64.0, 16384.0)  # tokens; spread over the heads
        momentum_init: float = 0.5  # mu at the start of training
        initial_length: float = 0.1  # length of M(x) - x at the start of training, for unit x
        convolution: int = 4  # tokens the short convolution sees
        epsilon: float = 1.0  # added to |u|^2 of the hidden layer
        clip: float = 4.0  # largest length of an output gradient

        def __post_init__(self):
            for name, known in CHOICES.items():
                if getattr(self, name) not in known:
                    raise UserError(
                        f"self_titans: {name}={getattr(self, name)!r} is none of {', '.join(known)}"
                    )
            short, long = sorted((self.period, self.projection_period))
            if short < 1 or long % short:
                raise UserError(
                    f"self_titans: period={self.period} and projection_period="
                    f"{self.projection_period} must be positive and one divide the other"
                )
            if not 0 < self.eta_max <= 2 or not 0 < self.eta_init < min(self.eta_max, 1):
                raise UserError("self_titans: need 0 < eta_init < eta_max <= 2 and eta_init < 1")
            if self.convolution < 1:
                raise UserError("self_titans: convolution must be at least 1 token")

    def __init__(self, config: Config, *, hidden_size: int, num_heads: int):
        super().__init__()
        if hidden_size % num_heads:
            raise UserError(f"hidden_size={hidden_size} must be a multiple of {num_heads} heads")
        self.config = config
        self.alignment = max(config.period, config.projection_period) if config.writes else 1
        self.num_heads = num_heads
        width = hidden_size // num_heads
        names = ["k", "eta", "alpha", "v", "q", "memory"]
        self.names = [n for n in names if n != "q" or config.adaptive_q]
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
        self.eta_weight = nn.Parameter(torch.empty(num_heads, width))
        self.eta_bias = nn.Parameter(torch.empty(num_heads))
        self.alpha_weight = nn.Parameter(torch.empty(num_heads, width))
        self.alpha_bias = nn.Parameter(torch.empty(num_heads))
        if config.momentum:
            self.mu_weight = nn.Parameter(torch.empty(num_heads, hidden_size))
            self.mu_bias = nn.Parameter(torch.empty(num_heads))

    def init_weights(self, generator: torch.Generator | None = None) -> None:
        """Set every parameter so that reads and writes matter from the first step on.

        The first layer has entries of unit variance, so that unit keys give hidden values of
        order one. The second is small, so that M(x) is near x, but not zero, or the first would
        have no gradient. Queries and keys start with the same projection, and keys see the token
        before: a fresh memory then already finds what followed an earlier occurrence of its input.
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
            for weight in (self.eta_weight, self.alpha_weight):
                weight.normal_(0, 0.02, generator=generator)
            ratio = config.eta_init / min(config.eta_max, 2.0)
            self.eta_bias.fill_(math.log(ratio / (1 - ratio)))
            bias = half_life_bias(self.num_heads, *config.half_life)
            self.alpha_bias.copy_(bias.to(self.alpha_bias))
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

    def _start(self, batch: int) -> Layers:
        """What the state's weights are at a document's start."""
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
        """Read and write along the sequence; ``state=None`` starts afresh."""
        if state is None:
            state = self.init_state(len(x))
        projected, tail = self.convolution(self.projection(x), state.tail, flow)
        projected = projected.unflatten(-1, (3, self.num_heads, -1))
        mu = None
        if self.config.momentum:
            gated = x.to(self.mu_weight.dtype)  # the gates may be of higher precision than x
            mu = torch.sigmoid(functional.linear(gated, self.mu_weight, self.mu_bias))
        with torch.autocast(x.device.type, enabled=False):
            dtype = torch.promote_types(x.dtype, torch.float32)
            projected = projected.to(dtype)
            mu = None if mu is None else mu.to(dtype)
            alone = x.shape[1] == 1 and flow.reset is None and flow.mask is None
            if mu is not None and fits(self.config) and alone and token_available(projected):
                y, state = self._token(projected, mu, state)
            elif mu is not None and fits(self.config) and x.shape[1] > 1 and available(projected):
                y, state = self._compiled(projected, mu, state, flow)
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

    def _token(
        self,
        projected: Float[Tensor, "B 1 3 H D"],
        mu: Float[Tensor, "B 1 H"],
        state: SelfTitansState,
    ) -> tuple[Float[Tensor, "B 1 H D"], SelfTitansState]:
        """One token of every row by the kernel."""
        config, dtype = self.config, projected.dtype
        pairs = (self._initial(), state.anchor, state.weight, state.momentum)
        states = [x.to(dtype) for pair in pairs for x in pair if x is not None]
        rates = (self.eta_weight, self.eta_bias, self.alpha_weight, self.alpha_bias)
        options = Options(config.epsilon, config.clip, config.eta_max, config.objective == "dot")
        y, new = token(projected, mu, states[:2], [x.to(dtype) for x in rates], states[2:], options)
        weight, momentum = Layers(*new[:2]), Layers(*new[2:])
        after = state._replace(weight=weight, momentum=momentum, opened=None)
        return y, move_on(config, len(self.names), after, None)

    def _compiled(
        self,
        projected: Float[Tensor, "B T 3 H D"],
        mu: Float[Tensor, "B T H"],
        state: SelfTitansState,
        flow: Flow,
    ) -> tuple[Float[Tensor, "B T H D"], SelfTitansState]:
        """All rows by the kernel."""
        config, dtype = self.config, projected.dtype
        pairs = (self._initial(), state.anchor, state.weight, state.momentum)
        states = [x.to(dtype) for pair in pairs for x in pair if x is not None]
        rates = (self.eta_weight, self.eta_bias, self.alpha_weight, self.alpha_bias)
        cuts = cut(
            state.count,
            flow.reset,
            flow.mask,
            length=projected.shape[1],
            period=config.period,
            tokens=TOKENS,
            group=group_of(*self.initial_first.shape[:0:-1]),
        )
        y, after = scan(
            projected,
            mu,
            states[:2],
            [x.to(dtype) for x in rates],
            states[2:],
            cuts=cuts,
            options=Options(config.epsilon, config.clip, config.eta_max, config.objective == "dot"),
        )
        anchor, weight, momentum = (Layers(*after[i : i + 2]) for i in (0, 2, 4))
        if bool(cuts.closes.all()):
            anchor = weight
        return y, SelfTitansState(state.tail, anchor, weight, momentum, cuts.tokens)

    def _frozen(
        self, q: Float[Tensor, "B H T D"], state: SelfTitansState, flow: Flow
    ) -> tuple[Float[Tensor, "B H T D"], SelfTitansState]:
        """The ablation: every memory that is read stays at its initial state."""
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
        """Segment by segment; in none does a period of any row end but at its last token."""
        config = self.config
        initial = self._initial()
        if q.shape[2] == 1 and flow.reset is None and flow.mask is None:
            rates = Readouts(self.eta_weight, self.eta_bias, self.alpha_weight, self.alpha_bias)
            return one_token(config, self.names, initial, rates, q, k, v, mu, state)
        start = self._start(len(q))
        shortest = min(config.period, config.projection_period)
        outputs = []
        one_period = config.period == config.projection_period
        for begin, end, ends in segments(state.count, flow, q.shape[2], shortest):
            here = slice(begin, end)
            if flow.reset is not None:
                state = self._reset(state, start, flow.reset[:, begin])
            valid = None if flow.mask is None else flow.mask[:, here]
            y, state = self._segment(
                initial,
                q[:, :, here],
                k[:, :, here],
                v[:, :, here],
                None if mu is None else mu[:, :, here],
                state,
                valid,
                ends if one_period else None,
            )
            outputs.append(y)
        return (torch.cat(outputs, dim=2) if outputs else q), state

    def _reset(
        self, state: SelfTitansState, start: Layers, reset: Bool[Tensor, " B"]
    ) -> SelfTitansState:
        """Rows that start a document go back to the initial state."""
        if not bool(reset.any()):
            return state

        def choose(new: Tensor, old: Tensor) -> Tensor:
            return torch.where(reset.view(-1, *(1,) * (old.ndim - 1)), new, old)

        return SelfTitansState(
            state.tail,
            start.map(choose, state.anchor),
            start.map(choose, state.weight),
            state.momentum.map(lambda x: choose(torch.zeros_like(x), x)),
            torch.where(reset, 0, state.count),
        )

    def _segment(
        self,
        initial: Layers,
        q: Float[Tensor, "B H C D"],
        k: Float[Tensor, "B H C D"],
        v: Float[Tensor, "B H C D"],
        mu: Float[Tensor, "B H C"] | None,
        state: SelfTitansState,
        valid: Bool[Tensor, "B C"] | None,
        ends: bool | None,
    ) -> tuple[Float[Tensor, "B H C D"], SelfTitansState]:
        """Produce k, v and the rates at the anchor, write every memory, read the last one."""
        config = self.config
        base = initial if config.decay_to == "init" else None
        anchor, running = self._anchor(state, base)
        inputs = {"k": k, "eta": k, "alpha": k, "v": v, "q": q, "memory": q}
        read_at_anchor, anchor = apply_through(
            anchor, torch.stack([inputs[name] for name in self.names], dim=2)
        )
        made = dict(zip(self.names, read_at_anchor.unbind(2), strict=True))
        k, v = unit(made["k"]), unit(made["v"])
        alpha = torch.sigmoid(_readout(made["alpha"], self.alpha_weight, self.alpha_bias))
        eta = _readout(made["eta"], self.eta_weight, self.eta_bias)
        eta = torch.sigmoid(eta) * (1 + alpha).clamp(max=config.eta_max)
        mask = None
        if valid is not None:
            mask = valid[:, None].expand_as(alpha)
            eta = eta * mask
        gates = coefficients(alpha, mu, None, mask)
        gradients, hidden = self._gradients(anchor, k, v)
        q = unit(made["q"]) if config.adaptive_q else q
        wide = gates.map(lambda x: x.unsqueeze(2))
        beta, scale = eta[:, :, None], (eta if mu is None else eta * (1 - mu))[:, :, None]
        old = DeltaState(running.first, state.momentum.first)
        written = -scale[..., None] * gradients.first
        fixed = None if base is None else base.first
        first, y = self._write(k[:, :, None], beta, written, wide, old, fixed, q)
        weight, momentum = Layers(first.weight, None), Layers(first.momentum, None)
        if hidden is not None:
            assert running.second is not None and state.momentum.second is not None
            assert gradients.second is not None
            energy = config.epsilon + hidden.square().sum(-1)
            old = DeltaState(running.second, state.momentum.second)
            written = -(scale / energy)[..., None] * gradients.second
            fixed = None if base is None else base.second
            second, y = self._write(
                hidden, beta / energy, written, wide, old, fixed, functional.gelu(y)
            )
            weight = Layers(first.weight, second.weight)
            momentum = Layers(first.momentum, second.momentum)
        y = made["memory"] if config.read == "anchor" else q + y
        return y, self._advance(state, weight, momentum, valid, k.shape[2], ends)

    def _anchor(self, state: SelfTitansState, base: Layers | None) -> tuple[Layers, Layers]:
        """The whole weights that opened the period, and the running ones, to be used once."""
        if base is None:
            return state.anchor, state.weight
        if state.anchor.first is not state.weight.first:
            return state.anchor.map(torch.add, base), state.weight
        return shift_through(state.weight, base)

    def _gradients(
        self, anchor: Layers, k: Float[Tensor, "B H C D"], v: Float[Tensor, "B H C D"]
    ) -> tuple[Layers, Float[Tensor, "B H M C E"] | None]:
        """Gradient of the objective for each layer's output, and the second layer's input.

        Targets are what each memory makes of v; they are constants of the inner problem.
        """
        config = self.config
        count = k.shape[2]
        both = torch.cat([v, k], dim=2)[:, :, None]
        z, _ = read_rows(anchor.first, both)
        hidden = slope = back = None
        if anchor.second is None:
            mapped = both + z
        else:
            h, slope = gelu_and_slope(z)
            mapped, back = read_rows(anchor.second, h)
            mapped = both + mapped
            hidden, slope = h[:, :, :, count:], slope[:, :, :, count:]
        target = unit(mapped[:, :, :, :count])
        gradient = mapped[:, :, :, count:] - target if config.objective == "l2" else -target
        length = gradient.norm(dim=-1, keepdim=True)
        gradient = gradient * (config.clip / length.clamp(min=config.clip))
        if back is None or slope is None:
            return Layers(gradient, None), None
        return Layers(slope * read_rows_back(back, gradient)[0], gradient), hidden

    def _write(
        self,
        u: Float[Tensor, "B H M1 C X"],
        beta: Float[Tensor, "B H M1 C"],
        written: Float[Tensor, "B H M C Y"],
        gates: Coefficients,
        state: DeltaState,
        fixed: Float[Tensor, "H M Y X"] | None,
        q: Float[Tensor, "B H C X"],
    ) -> tuple[DeltaState, Float[Tensor, "B H C Y"]]:
        """Write one layer of all memories, and read that of the last one at q.

        ``fixed`` is what the state is the deviation from; None if it is the weight itself.
        """
        config = self.config
        if config.rule == "dgd":
            inverse = erased_inverse(gates.before, u @ u.mT, beta)
            seen = fixed if config.erase == "whole" else None
            gone, state = erase(u, u, written, beta, gates.before, inverse, state, base=seen)
        else:
            gone = torch.zeros_like(written)
        span = gates.after if config.read == "post" else gates.before
        here = span.map(lambda x: x[:, :, -1])
        y, state = read(
            q,
            u[:, :, -1],
            written[:, :, -1],
            gone[:, :, -1],
            here,
            state,
            product=read_rows_of_last,
        )
        if fixed is not None:
            y = y + q @ fixed[:, -1].mT
        return close(u, written, gone, gates, state), y

    def _advance(
        self,
        state: SelfTitansState,
        weight: Layers,
        momentum: Layers,
        valid: Bool[Tensor, "B C"] | None,
        length: int,
        ends: bool | None,
    ) -> SelfTitansState:
        """Move the anchor of every memory whose period has ended.

        ``ends`` says it for all rows and memories at once where that is known.
        """
        config = self.config
        added = length if valid is None else valid.sum(1)
        count = state.count + added
        if ends is not None:
            anchor = weight if ends else state.anchor
            return SelfTitansState(state.tail, anchor, weight, momentum, count)
        periods = [config.projection_period] * (len(self.names) - 1) + [config.period]
        moves = count[:, None] % torch.tensor(periods, device=count.device) == 0
        if valid is not None:
            moves = moves & valid.any(1)[:, None]
        moves = moves[:, None, :, None, None]
        anchor = weight.map(lambda new, old: torch.where(moves, new, old), state.anchor)
        return SelfTitansState(state.tail, anchor, weight, momentum, count)

    @torch.no_grad()
    def reach(self, state: SelfTitansState | None = None, samples: int = 256) -> dict[str, float]:
        """Mean length of M(x) - x over random unit x, of every memory: is it still alive?

        Of the first row's running weights; without a state, of the initial ones.
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
        """Every memory, and the momentum that goes before it.

        Running weights and momenta are written at every token. What is read of the output memory
        is the running weight; of the others it is the anchor, which moves once a period.
        """
        config = self.config
        if not config.writes:
            return []
        layers = [x for x in (self.initial_first, self.initial_second) if x is not None]
        size = sum(x[:, 0].numel() for x in layers)
        objective = {"l2": "|M(k) - v_hat|^2 / 2", "dot": "-<M(k), v_hat>"}[config.objective]
        rule = {"dgd": "delta gradient descent with decay", "gd": "gradient descent with decay"}
        found = []
        for name in self.names:
            period = config.period if name == "memory" else config.projection_period
            running = name == "memory" and config.read != "anchor"
            shared: dict[str, Any] = {
                "parameters": size,
                "per_sequence": True,
                "objective": objective,
                "context": f"pairs (k, v_hat = M_{name}(v)) that the memories make of each token",
            }
            momentum = f"momentum of M_{name}"
            if config.momentum:
                found.append(
                    Level(
                        name=momentum,
                        period=1,
                        rule="normalised momentum",
                        transfer="direct: added to the weight",
                        **shared,
                    )
                )
            found.append(
                Level(
                    name=f"M_{name}",
                    period=1 if running else period,
                    rule=f"{rule[config.rule]}, gradients at the state of every {period} tokens",
                    transfer="initialisation: the initial state is learned through the writes",
                    depends_on=(momentum,) if config.momentum else (),
                    **shared,
                )
            )
        return found


def fits(config: SelfTitans.Config) -> bool:
    """Whether the compiled kernel computes the memory of these options."""
    return (
        config.writes
        and config.network == "mlp"
        and config.rule == "dgd"
        and config.read == "post"
        and config.decay_to == "init"
        and config.erase == "deviation"
        and config.momentum
        and not config.adaptive_q
        and config.period == config.projection_period <= LONGEST
    )


def _readout(
    x: Float[Tensor, "B H C D"], weight: Float[Tensor, "H D"], bias: Float[Tensor, " H"]
) -> Float[Tensor, "B H C"]:
    return (x @ weight.to(x.dtype)[..., None])[..., 0] + bias.to(x.dtype)[:, None]
