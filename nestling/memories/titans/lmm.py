"""The neural long-term memory of Titans: a network written by gradients at test time."""

import math
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from nestling.core.error import UserError
from nestling.core.level import Level
from nestling.core.memory import Flow
from nestling.core.named import traceable
from nestling.core.transfer import LEARNED, MADE, READ, added_to
from nestling.memories.parts import (
    ShortConvolution,
    half_life_bias,
    start_with_recall,
    unit,
)
from nestling.memories.period import Segment, advance, read_by_period
from nestling.memories.titans.network import Weights, add_base, apply, gradients, write
from nestling.memories.titans.options import MemoryOptions
from nestling.ops.momentum_gated_delta_rule.chunk import coefficients

INITIAL_STD = 0.02
GELU_POWER = 0.425  # E gelu(z)^2 for a standard normal z


@traceable
class LMMState(NamedTuple):
    """The state of a row of the long-term memory between calls.

    Weights are deviations from the initial memory (with ``decay_to="zero"``: the weights), one
    tensor per layer. ``anchor`` is from the start of the current period, ``weight`` and
    ``momentum`` are current, ``count`` is the tokens of the document so far, without persistent
    ones.
    """

    tail: Float[Tensor, "B W C"]
    anchor: Weights
    weight: Weights
    momentum: Weights
    count: Int[Tensor, " B"]


class Rows(NamedTuple):
    """Queries, keys and values of the inputs [B, H, T, D], and gates [B, H, T]."""

    q: Float[Tensor, "B H T D"]
    k: Float[Tensor, "B H T D"]
    v: Float[Tensor, "B H T D"]
    theta: Float[Tensor, "B H T"]
    eta: Float[Tensor, "B H T"] | None
    alpha: Float[Tensor, "B H T"]

    def cut(self, begin: int, end: int) -> "Rows":
        """The tokens from ``begin`` to ``end``."""
        q, k, v, theta, alpha = (
            x[:, :, begin:end] for x in (self.q, self.k, self.v, self.theta, self.alpha)
        )
        eta = None if self.eta is None else self.eta[:, :, begin:end]
        return Rows(q, k, v, theta, eta, alpha)


class LongTermMemory(nn.Module):
    """A network M for every row and head, written by gradient descent with momentum.

        q, k, v = silu(conv(x W)), q and k of unit length
        S_t = eta_t S_{t-1} - theta_t grad |M_anchor(k_t) - v_t|^2 / 2
        M_t = (1 - alpha_t) M_{t-1} + S_t,   y_t = M_t(q_t)

    The memories of this folder share it. It maps inputs [B, T, D] to the heads' raw reads
    [B, T, D]; norms, gates and the output projection are up to them.

    The anchor is the memory at the start of a period of ``period`` tokens; inside a period the
    recurrence is exact (ops/momentum_gated_delta_rule, without eraser). Persistent tokens are read
    and written before the first token of a document; periods count from that token, and the
    convolutions do not cross over from the persistent tokens to the document.

    Gates, per token and head: alpha and eta are sigmoids of linear maps of x, and
    theta = (1 - eta) theta_max / period * sigmoid(a linear map of x).

    Bounded: the error is clipped to a root mean square of ``clip``, and in hidden layers the step
    is divided by epsilon + |u|^2, so the writes of the last layer are bounded for any weights. With
    the 1 - eta in theta, S is a weighted mean of them and no longer than the longest, and a weight
    is no longer than that over the smallest alpha; this bounds the gradients of the layer before,
    and so on to the first. The steps of a period also add up to at most theta_max, so that
    (momentum aside) a key that fills a whole period moves M(k) to v, and not beyond.

    Source: arXiv 2501.00663, sections 3.1-3.3 and 4.4. Deviates: the 1 - eta, 1 / period and energy
    in the step, and the clip (parts of a data-dependent theta; the paper does not say how theta is
    bounded); decay towards the learned initial memory (``decay_to="zero"``: as printed), because a
    deep network whose weights have all decayed to zero can never be written again; the squared
    error is halved; depth-wise convolutions without a point-wise part, which the projection before
    them already is. The initialisation is ours; the paper gives none.
    Cost: time O(layers expansion D^2 / H) per token beyond the projections; state 3 times the
    network's weights per head.
    """

    # see Memory.float32
    FLOAT32: ClassVar[tuple[str, ...]] = (
        *("initial_layers", "theta_weight", "theta_bias"),
        *("eta_weight", "eta_bias", "alpha_weight", "alpha_bias"),
    )
    # see Memory.rates; layers after the first start small: at the usual learning rate a step would
    # be most of their size
    RATES: ClassVar[Mapping[str, float]] = {r"initial_layers\.[1-9]": 0.1}

    def __init__(self, config: MemoryOptions, *, hidden_size: int, num_heads: int):
        super().__init__()
        if hidden_size % num_heads:
            raise UserError(f"hidden_size={hidden_size} must be a multiple of {num_heads} heads")
        self.config = config
        self.num_heads = num_heads
        width = hidden_size // num_heads
        widths = [width, *[config.expansion * width] * (config.layers - 1), width]
        self.projection = nn.Linear(hidden_size, 3 * hidden_size, bias=False)
        self.convolution = ShortConvolution(3 * hidden_size, config.convolution)
        self.initial_layers = nn.ParameterList(
            nn.Parameter(torch.empty(num_heads, outer, inner))
            for inner, outer in zip(widths[:-1], widths[1:], strict=True)
        )
        self.gates = ["theta", "eta", "alpha"] if config.momentum else ["theta", "alpha"]
        for gate in self.gates:
            self.register_parameter(
                f"{gate}_weight", nn.Parameter(torch.empty(num_heads, hidden_size))
            )
            self.register_parameter(f"{gate}_bias", nn.Parameter(torch.empty(num_heads)))

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator | None = None) -> None:
        """Set every parameter such that hidden values are of order one and M(k) is small, not zero.

        With a last layer of zeros the layers before it would get no gradient. With ``recall_start``
        an untrained memory already recalls what followed an earlier occurrence of its input.
        """
        config = self.config
        self.projection.weight.normal_(0, INITIAL_STD, generator=generator)
        self.convolution.init_weights(generator)
        if config.recall_start:
            start_with_recall(self.projection, self.convolution)
        for layer, weight in enumerate(self.initial_layers):
            outer, inner = weight.shape[1:]
            power = GELU_POWER * inner if layer else 1.0
            length = config.initial_length / math.sqrt(outer)
            last = layer == len(self.initial_layers) - 1
            std = (length if last else 1.0) / math.sqrt(power)
            weight.normal_(0, std, generator=generator)
        share = config.theta_init / config.theta_max
        retention = half_life_bias(self.num_heads, *config.half_life)
        biases = {
            "theta": _logit(share),
            "eta": _logit(config.momentum_init),
            "alpha": -retention,
        }
        for gate in self.gates:
            weight, bias = getattr(self, f"{gate}_weight"), getattr(self, f"{gate}_bias")
            weight.normal_(0, INITIAL_STD, generator=generator)
            bias.copy_(torch.as_tensor(biases[gate]).to(bias))

    def _initial(self) -> Weights:
        """The learned initial memory, at least float32."""
        return tuple(w.to(torch.promote_types(w.dtype, torch.float32)) for w in self.initial_layers)

    def base(self) -> Weights | None:
        """The weights that a state's deviations are added to; None: it holds the weights."""
        return self._initial() if self.config.decay_to == "init" else None

    def open(
        self, persistent: Float[Tensor, "P D"] | None
    ) -> tuple[Float[Tensor, "1 P D"] | None, LMMState]:
        """The reads of the persistent tokens, and the state of one row after they are written."""
        weight = self._initial()
        if self.config.decay_to == "init":
            weight = tuple(map(torch.zeros_like, weight))
        weight = tuple(w[None] for w in weight)
        momentum = tuple(map(torch.zeros_like, weight))
        count = torch.zeros(1, dtype=torch.long, device=weight[0].device)
        tail = self.convolution.init_tail(1)
        state = LMMState(tail, weight, weight, momentum, count)
        if persistent is None:
            return None, state
        rows, _ = self.project(persistent[None], tail, Flow())
        outputs = []
        for begin in range(0, len(persistent), self.config.period):
            end = begin + self.config.period
            y, state = self.advance(rows.cut(begin, end), state, None, True)
            outputs.append(y)
        y = torch.cat(outputs, dim=2).transpose(1, 2).flatten(2)
        return y.to(persistent.dtype), state._replace(count=count)

    def init_state(self, batch: int, persistent: Float[Tensor, "P D"] | None) -> LMMState:
        """The state before the first token of ``batch`` rows."""
        return _expanded(self.open(persistent)[1], batch)

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        state: LMMState | None,
        flow: Flow,
        persistent: Float[Tensor, "P D"] | None,
    ) -> tuple[Float[Tensor, "B T D"], LMMState]:
        """Write and read along the sequence; ``state=None`` starts fresh."""
        start = None
        if state is None or flow.reset is not None:
            start = self.init_state(len(x), persistent)
        state = start if state is None else state
        assert state is not None
        rows, tail = self.project(x, state.tail, flow)

        def read(part: Segment, state: LMMState) -> tuple[Float[Tensor, "B H C D"], LMMState]:
            return self.advance(rows.cut(part.begin, part.end), state, part.valid, part.ends)

        period, length = self.config.period, x.shape[1]
        outputs, state = read_by_period(read, state, start, flow, length, period)
        y = torch.cat(outputs, dim=2).to(x.dtype) if outputs else rows.q
        return y.transpose(1, 2).flatten(2), state._replace(tail=tail)

    def project(
        self, x: Float[Tensor, "B T D"], tail: Float[Tensor, "B W C"], flow: Flow
    ) -> tuple[Rows, Float[Tensor, "B W C"]]:
        """Queries, keys, values and gates of these inputs, and the convolution's new tail."""
        config = self.config
        projected, tail = self.convolution(self.projection(x), tail, flow)
        heads = (3, self.num_heads, -1)
        q, k, v = projected.unflatten(-1, heads).permute(2, 0, 3, 1, 4)
        dtype = torch.promote_types(x.dtype, torch.float32)
        theta, alpha = self._gate("theta", x, dtype), self._gate("alpha", x, dtype)
        theta = theta * (config.theta_max / config.period)
        eta = self._gate("eta", x, dtype) if config.momentum else None
        theta = theta if eta is None else theta * (1 - eta)
        return Rows(unit(q.to(dtype)), unit(k.to(dtype)), v.to(dtype), theta, eta, alpha), tail

    def _gate(
        self, name: str, x: Float[Tensor, "B T D"], dtype: torch.dtype
    ) -> Float[Tensor, "B H T"]:
        weight, bias = getattr(self, f"{name}_weight"), getattr(self, f"{name}_bias")
        # the gates may have a higher precision than x
        gate = functional.linear(x.to(weight.dtype), weight, bias)
        return torch.sigmoid(gate.to(dtype)).mT

    def recall(self, state: LMMState, q: Float[Tensor, "B H C D"]) -> Float[Tensor, "B H C D"]:
        """Read the memory as of the start of the period."""
        base = self.base()
        anchor = state.anchor if base is None else tuple(map(torch.add, state.anchor, base))
        return apply(anchor, q)

    def advance(
        self,
        rows: Rows,
        state: LMMState,
        valid: Bool[Tensor, "B C"] | None,
        ends: bool | None,
    ) -> tuple[Float[Tensor, "B H C D"], LMMState]:
        """Write and read a segment; move the anchor of the rows whose period ends with it.

        ``ends`` as in ``nestling.memories.period.Segment``.
        """
        with torch.autocast(rows.k.device.type, enabled=False):
            y, weight, momentum = self._write(rows, state, valid)
        periods, length = (self.config.period,), rows.k.shape[2]
        return y, advance(state, weight, momentum, periods, valid, length, ends)

    def _write(
        self, rows: Rows, state: LMMState, valid: Bool[Tensor, "B C"] | None
    ) -> tuple[Float[Tensor, "B H C D"], Weights, Weights]:
        config, base = self.config, self.base()
        theta, mask = rows.theta, None
        if valid is not None:
            mask = valid[:, None].expand_as(theta)
            theta = theta * mask
        gates = coefficients(1 - rows.alpha, rows.eta, None, mask)
        anchor, running = add_base(state.anchor, state.weight, base)
        slopes = gradients(anchor, rows.k, rows.v, config.clip)
        return write(running, state.momentum, base, slopes, theta, gates, config.epsilon, rows.q)

    @torch.no_grad()
    def reach(self, state: LMMState, samples: int = 256) -> Float[Tensor, " H"]:
        """Mean length of the first row's reads for random unit queries, per head."""
        base = self.base()
        weights = tuple(w[0] for w in state.weight)
        weights = weights if base is None else tuple(map(torch.add, weights, base))
        generator = torch.Generator().manual_seed(0)
        q = unit(torch.randn(samples, weights[0].shape[-1], generator=generator).to(weights[0]))
        return apply(weights, q.expand(self.num_heads, -1, -1)).norm(dim=-1).mean(-1)

    def levels(self) -> list[Level]:
        """The momentum and the network it is added to, both written at every token."""
        config = self.config
        shared: dict[str, Any] = {
            "period": 1,
            "parameters": sum(w.numel() for w in self.initial_layers),
            "per_sequence": True,
            "objective": "|M(k) - v|^2 / 2",
            "context": "keys and values projected from the tokens",
        }
        rule = (
            f"gradient descent with decay, gradients at the state of every {config.period} tokens"
        )
        initial = (READ, MADE, LEARNED)
        if not config.momentum:
            return [Level(name="M", rule=rule, transfer=initial, **shared)]
        momentum = Level(name="momentum of M", rule="momentum", transfer=(added_to("M"),), **shared)
        network = Level(
            name="M", rule=rule, transfer=initial, depends_on=("momentum of M",), **shared
        )
        return [momentum, network]


def _logit(share: float) -> float:
    return math.log(share / (1 - share))


def _expanded(state: LMMState, batch: int) -> LMMState:
    """The state of one row, expanded to many; the anchor is expanded without a copy."""
    weight = tuple(w.expand(batch, *w.shape[1:]) for w in state.weight)
    momentum = tuple(w.expand(batch, *w.shape[1:]) for w in state.momentum)
    tail = state.tail.expand(batch, -1, -1)
    return LMMState(tail, weight, weight, momentum, state.count.expand(batch))
