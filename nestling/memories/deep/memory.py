"""The base of the memories in this folder: a network per head, written by gradients."""

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from nestling.core.error import UserError
from nestling.core.level import Level
from nestling.core.memory import Flow, Memory
from nestling.core.named import traceable
from nestling.core.options import refuse_unread
from nestling.core.transfer import LEARNED, MADE, READ, added_to
from nestling.memories.deep.features import Polynomial, width
from nestling.memories.deep.network import Weights, Write
from nestling.memories.parts import ShortConvolution, half_life_bias, start_with_recall, unit
from nestling.memories.period import Segment, advance, read_by_period
from nestling.memories.titans.network import add_base

INITIAL_STD = 0.02
GATES = ("alpha", "eta", "gamma", "mu")  # all gates of the memories in this folder


@dataclass(frozen=True, kw_only=True)
class DeepOptions:
    """Options shared by the memories in this folder."""

    layers: int = 2  # layers of the memory's network; 1 is a matrix
    expansion: int = 4  # width of its hidden layers, in head widths
    heads: int | None = None  # heads of the memory; None: the model's num_heads
    period: int = 16  # tokens between two anchors, where gradients are taken
    # forgetting decays towards the "init"ial memory, or towards "zero", as printed
    decay_to: str = "init"
    half_life: tuple[float, float] = (64.0, 16384.0)  # tokens; spread over the heads
    convolution: int = 4  # tokens the short convolutions see
    epsilon: float = 1.0  # added to |u|^2 of the hidden layers
    recall_start: bool = True  # keys start as queries do, and see the token before

    def __post_init__(self):
        for name in ("layers", "expansion", "period", "convolution"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; give at least 1")
        if self.decay_to not in ("init", "zero"):
            raise UserError(f"decay_to is {self.decay_to!r}; choose init or zero")
        if self.epsilon <= 0:
            raise UserError(f"epsilon is {self.epsilon}; give a number above 0")
        if self.layers == 1:
            refuse_unread("memory", self, dict.fromkeys(("expansion", "epsilon"), "layers=1"))


@traceable
class DeepState(NamedTuple):
    """The state of a row between calls.

    Weights are deviations from the initial memory (with ``decay_to="zero"``: the weights), one
    tensor per layer. ``anchor`` is from the start of the current period, ``weight`` and
    ``momentum`` (empty without one) are current. ``keys``, ``values`` and ``strength`` are those of
    the last window - 1 tokens, with strength zero before the document; ``count`` is the tokens of
    the document so far.
    """

    tail: Float[Tensor, "B W C"]
    anchor: Weights
    weight: Weights
    momentum: Weights
    keys: Float[Tensor, "B H N D"]
    values: Float[Tensor, "B H N D"]
    strength: Float[Tensor, "B H N"]
    count: Int[Tensor, " B"]


@traceable
class Rows(NamedTuple):
    """Queries, keys, values and gates of the inputs; a gate is [B, H, T]."""

    q: Float[Tensor, "B H T D"]
    k: Float[Tensor, "B H T D"]
    v: Float[Tensor, "B H T D"]
    gates: dict[str, Tensor]

    def cut(self, begin: int, end: int) -> "Rows":
        """The tokens from ``begin`` to ``end``."""
        q, k, v = (x[:, :, begin:end] for x in (self.q, self.k, self.v))
        return Rows(q, k, v, {name: g[:, :, begin:end] for name, g in self.gates.items()})


class DeepMemory(Memory):
    """A residual network M for every row and head, written by gradients of an inner loss.

        q, k, v = silu(conv(x W)), q and k of unit length
        y = W_o (norm(M_t(q_t)) * silu(W_g x)),   M(x) = x + network(phi(x))

    Gradients are taken at the anchor, the memory at the start of a period of ``period`` tokens;
    inside a period the recurrence of the weights is exact. Subclasses define in ``_writes`` and
    ``_write`` how M_t follows from the gradients of the last ``window`` tokens. Gates are sigmoids
    of linear maps of x, one per token and head; ``alpha`` is the retention.

    In hidden layers a write is divided by epsilon + |u|^2. This bounds the writes of the last layer
    for any input, and with them the gradients of the layers before it.

    Source: arXiv 2505.23735, sections 3-5. Deviates: that division; decay towards the learned
    initial memory (``decay_to="zero"``: as printed), because a deep network whose weights have all
    decayed to zero can never be written again; depth-wise convolutions without a point-wise part,
    which the projection before them already is. The initialisation is ours; the paper gives none.
    """

    float32: ClassVar[tuple[str, ...]] = (
        "initial_layers",
        *(f"{gate}_{part}" for gate in GATES for part in ("weight", "bias")),
    )

    def __init__(
        self,
        config: DeepOptions,
        *,
        hidden_size: int,
        num_heads: int,
        gates: dict[str, float],
        window: int = 1,
        degree: int = 1,
        momentum: bool = False,
    ):
        super().__init__()
        heads = config.heads or num_heads
        if hidden_size % heads:
            raise UserError(f"hidden_size={hidden_size} must be a multiple of {heads} heads")
        self.options = config
        self.alignment = config.period
        self.num_heads = heads
        self.window, self.momentum = window, momentum
        self.gate_starts = gates
        size = hidden_size // heads
        hidden = [config.expansion * size] * (config.layers - 1)
        widths = [width(size, degree), *hidden, size]
        self.projection = nn.Linear(hidden_size, 3 * hidden_size, bias=False)
        self.convolution = ShortConvolution(3 * hidden_size, config.convolution)
        self.features = Polynomial(degree) if degree > 1 else None
        self.initial_layers = nn.ParameterList(
            nn.Parameter(torch.empty(heads, outer, inner))
            for inner, outer in zip(widths[:-1], widths[1:], strict=True)
        )
        for gate in ("alpha", *gates):
            self.register_parameter(f"{gate}_weight", nn.Parameter(torch.empty(heads, hidden_size)))
            self.register_parameter(f"{gate}_bias", nn.Parameter(torch.empty(heads)))
        self.norm = nn.RMSNorm(size, eps=1e-6)
        self.gate = nn.Linear(hidden_size, hidden_size, bias=False)
        self.output = nn.Linear(hidden_size, hidden_size, bias=False)

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator | None = None) -> None:
        """Set every parameter; the network starts with hidden values of order one."""
        for linear in (self.projection, self.gate, self.output):
            linear.weight.normal_(0, INITIAL_STD, generator=generator)
        self.convolution.init_weights(generator)
        if self.options.recall_start:
            start_with_recall(self.projection, self.convolution)
        if self.features is not None:
            self.features.init_weights()
        self._init_network(generator)
        starts = {name: math.log(s / (1 - s)) for name, s in self.gate_starts.items()}
        retention = half_life_bias(self.num_heads, *self.options.half_life)
        for gate, start in ({"alpha": retention} | starts).items():
            weight, bias = getattr(self, f"{gate}_weight"), getattr(self, f"{gate}_bias")
            weight.normal_(0, INITIAL_STD, generator=generator)
            bias.copy_(torch.as_tensor(start).to(bias))
        self.norm.weight.fill_(1)

    def _initial(self) -> Weights:
        """The learned initial memory, at least float32."""
        return tuple(w.to(torch.promote_types(w.dtype, torch.float32)) for w in self.initial_layers)

    def base(self) -> Weights | None:
        """The weights that a state's deviations are added to; None: it holds the weights."""
        return self._initial() if self.options.decay_to == "init" else None

    def init_state(self, batch: int) -> DeepState:
        """The state before the first token: the initial memory, and an empty window."""
        initial = self._initial()
        weight = tuple(w.expand(batch, *w.shape) for w in initial)
        if self.options.decay_to == "init":
            weight = tuple(w.new_zeros(w.shape) for w in weight)
        momentum = tuple(w.new_zeros(w.shape) for w in weight if self.momentum)
        pairs = initial[-1].new_zeros(batch, self.num_heads, self.window - 1, len(self.norm.weight))
        count = torch.zeros(batch, dtype=torch.long, device=pairs.device)
        tail = self.convolution.init_tail(batch)
        return DeepState(tail, weight, weight, momentum, pairs, pairs, pairs[..., 0], count)

    def forward(
        self, x: Float[Tensor, "B T D"], state: DeepState | None = None, flow: Flow = Flow()
    ) -> tuple[Float[Tensor, "B T D"], DeepState]:
        """Write and read along the sequence; ``state=None`` starts fresh."""
        start = None
        if state is None or flow.reset is not None:
            start = self.init_state(len(x))
        state = start if state is None else state
        assert state is not None
        rows, tail = self.project(x, state.tail, flow)

        def read(part: Segment, state: DeepState) -> tuple[Float[Tensor, "B H C D"], DeepState]:
            return self._segment(rows.cut(part.begin, part.end), state, part.valid, part.ends)

        period, length = self.options.period, x.shape[1]
        with torch.autocast(x.device.type, enabled=False):
            outputs, state = read_by_period(read, state, start, flow, length, period)
        y = torch.cat(outputs, dim=2) if outputs else rows.q
        y = self.norm(y.to(x.dtype)).transpose(1, 2).flatten(2)
        return self.output(y * functional.silu(self.gate(x))), state._replace(tail=tail)

    def project(
        self, x: Float[Tensor, "B T D"], tail: Float[Tensor, "B W C"], flow: Flow
    ) -> tuple[Rows, Float[Tensor, "B W C"]]:
        """Queries, keys, values and gates of these inputs, and the convolution's new tail."""
        projected, tail = self.convolution(self.projection(x), tail, flow)
        heads = (3, self.num_heads, -1)
        q, k, v = projected.unflatten(-1, heads).permute(2, 0, 3, 1, 4)
        dtype = torch.promote_types(x.dtype, torch.float32)
        gates = {}
        for name in ("alpha", *self.gate_starts):
            weight, bias = getattr(self, f"{name}_weight"), getattr(self, f"{name}_bias")
            # the gates may have a higher precision than x
            gate = functional.linear(x.to(weight.dtype), weight, bias)
            gates[name] = torch.sigmoid(gate.to(dtype)).mT
        return Rows(unit(q.to(dtype)), unit(k.to(dtype)), v.to(dtype), gates), tail

    def _segment(
        self,
        rows: Rows,
        state: DeepState,
        valid: Bool[Tensor, "B C"] | None,
        ends: bool | None,
    ) -> tuple[Float[Tensor, "B H C D"], DeepState]:
        """Write and read a segment, in which a period can only end at the last token."""
        strength, mask = self._strength(rows.gates), None
        if valid is not None:
            mask = valid[:, None].expand_as(strength)
            strength = strength * mask
        k = torch.cat([state.keys, rows.k], dim=2)
        v = torch.cat([state.values, rows.v], dim=2)
        strength = torch.cat([state.strength, strength], dim=2)
        anchor, running = add_base(state.anchor, state.weight, self.base())
        writes = self._writes(anchor, k, v, strength)
        x = self.features_of(rows.q)
        y, weight, momentum = self._write(writes, running, state.momentum, rows.gates, mask, x)
        keys, values, strength = (_last(part, self.window - 1, valid) for part in (k, v, strength))
        state = state._replace(keys=keys, values=values, strength=strength)
        periods, length = (self.options.period,), rows.k.shape[2]
        return rows.q + y, advance(state, weight, momentum, periods, valid, length, ends)

    def features_of(self, x: Float[Tensor, "B H N D"]) -> Float[Tensor, "B H N F"]:
        return x if self.features is None else self.features(x)

    @abstractmethod
    def _init_network(self, generator: torch.Generator | None) -> None:
        """Set the initial memory."""

    @abstractmethod
    def _writes(
        self,
        anchor: Weights,
        k: Float[Tensor, "B H N D"],
        v: Float[Tensor, "B H N D"],
        strength: Float[Tensor, "B H N"],
    ) -> list[Write]:
        """What each token adds to the layers in every step whose window contains it."""

    @abstractmethod
    def _strength(self, gates: dict[str, Tensor]) -> Float[Tensor, "B H C"]:
        """How strongly the gradient of each token is written."""

    @abstractmethod
    def _write(
        self,
        writes: list[Write],
        weights: Weights,
        momenta: Weights,
        gates: dict[str, Tensor],
        mask: Bool[Tensor, "B H C"] | None,
        x: Float[Tensor, "B H C F"],
    ) -> tuple[Float[Tensor, "B H C D"], Weights, Weights]:
        """The network's output at x after each token, and the final weights and momenta.

        ``writes`` are those of the window's earlier tokens and of the present C.
        """


def _last(
    x: Float[Tensor, "B H N *D"], count: int, valid: Bool[Tensor, "B C"] | None
) -> Float[Tensor, "B H K *D"]:
    """The last ``count`` tokens, without masked ones at the end."""
    if valid is None or not count:
        return x[:, :, x.shape[2] - count :]
    places = valid.sum(1)[:, None] + torch.arange(count, device=x.device)
    return x[torch.arange(len(x), device=x.device)[:, None], :, places].movedim(1, 2)


def levels_of(memory: DeepMemory, objective: str, rule: str, momentum: str | None) -> list[Level]:
    """The network, written at every token, after its momentum, if any."""
    shared: dict[str, Any] = {
        "period": 1,
        "parameters": sum(w.numel() for w in memory.initial_layers),
        "per_sequence": True,
        "objective": objective,
        "context": "keys and values projected from the tokens",
    }
    network = Level(
        name="M",
        rule=f"{rule}, gradients at the state of every {memory.options.period} tokens",
        transfer=(READ, MADE, LEARNED),
        depends_on=("momentum of M",) if momentum else (),
        **shared,
    )
    if momentum is None:
        return [network]
    added = (added_to("M"),)
    return [Level(name="momentum of M", rule=momentum, transfer=added, **shared), network]
