"""The time mixing of RWKV-7: a delta rule with a decay and a rate for every channel."""

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
from nestling.memories.parts import document_starts, unit, valid_lengths
from nestling.ops.diagonal_delta_rule import DiagonalState, diagonal_delta_rule

INITIAL_STD = 0.02
STRONGEST = -math.exp(-0.5)  # log of the smallest retention of a channel per token
NORM_EPS = 64e-5
# exponent of the ramp over the channels by which each projection starts to see the token before
RAMPS = {"query": 0.2, "decay": 0.9, "key": 0.7, "value": 0.7, "rate": 0.9, "gate": 0.2}
DEPTH = 0.5  # all layers start as the published one at this depth: 0 is the first, 1 the last


@traceable
class RWKV7State(NamedTuple):
    """The state of a row."""

    last: Float[Tensor, "B D"]  # input of the document's last token; zero before the first
    weight: Float[Tensor, "B H K K"]


class LowRank(nn.Module):
    """``activation(x down) up``, without biases."""

    def __init__(self, hidden_size: int, rank: int, activation: nn.Module):
        super().__init__()
        # parameters, not nn.Linear: weight decay is for the large matrices only
        self.down = nn.Parameter(torch.empty(hidden_size, rank))
        self.up = nn.Parameter(torch.empty(rank, hidden_size))
        self.activation = activation

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        """Apply it to every position."""
        return self.activation(x @ self.down) @ self.up

    def init_weights(self, generator: torch.Generator | None = None) -> None:
        """``up`` has orthogonal rows of length 0.1, ``down`` is almost zero."""
        self.down.normal_(std=0.01, generator=generator)
        rows = torch.empty_like(self.up, dtype=torch.float32)
        self.up.copy_(nn.init.orthogonal_(rows, gain=0.1, generator=generator))


class RWKV7(Memory):
    """A matrix per head, with decays and rates per channel, computed from token-shifted inputs.

    Each of the six projections below gets its own mixture x + (x_before - x) m of a token and the
    previous one, with m learned per channel.

        q, k, v = W_q x, W_k x, W_v x         a = sigmoid(low rank of x)    g = low rank of x
        alpha = exp(-exp(-1/2) sigmoid(low rank of x))
        p = k xi, to unit length in each head       k~ = k (1 + (a - 1) c)       xi, c learned
        S <- S (diag(alpha) - p (a p)^T) + v k~^T
        y = W_o (g (norm(S q) + (q . rho k~) v))     rho learned, norm over each head

    alpha is at least 0.545, so the log decays of 16 tokens sum to at least -9.7, well within the
    range of the chunk form (ops/diagonal_delta_rule).

    Source: arXiv 2503.14456, time mixing (letters there: r for q, w for alpha, kappa for p, alpha
    for c), with the ranks and the initialisation of its authors' training code. Deviates: values
    are not mixed with those of the first layer, because a memory does not know other layers; every
    layer starts as the published one at half depth; the low ranks and the output start near zero
    and not at zero, so that everything is learned from the first step; the backbone's RMSNorm in
    place of LayerNorm, and its feed-forward network in place of the paper's channel mixing.
    Cost: time O(T D (K + r)) beyond the projections, r the ranks; state K^2 per head and D.
    """

    update: ClassVar[str] = "S <- S (diag(alpha) - p (a p)^T) + v k^T, alpha and a by channel"
    source: ClassVar[str] = "arXiv 2503.14456"
    float32: ClassVar[tuple[str, ...]] = ("decay_bias",)

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Options of the memory."""

        decay_rank: int | None = None  # None: 1.8 sqrt(hidden_size), in steps of 32
        rate_rank: int | None = None  # None: as decay_rank
        gate_rank: int | None = None  # None: 0.6 hidden_size^0.8, in steps of 32

        def __post_init__(self):
            for name in ("decay_rank", "rate_rank", "gate_rank"):
                rank = getattr(self, name)
                if rank is not None and rank < 1:
                    raise UserError(
                        f"rwkv7.{name} is {rank}; give at least 1, or null for the default"
                    )

    def __init__(self, config: Config, *, hidden_size: int, num_heads: int):
        super().__init__()
        if hidden_size % num_heads:
            raise UserError(f"hidden_size={hidden_size} must be a multiple of {num_heads} heads")
        self.config = config
        self.num_heads = num_heads
        decay_rank = config.decay_rank or steps_of_32(1.8 * hidden_size**0.5)
        gate_rank = config.gate_rank or steps_of_32(0.6 * hidden_size**0.8)
        self.mix = nn.ParameterDict(
            {name: nn.Parameter(torch.empty(hidden_size)) for name in RAMPS}
        )
        self.query = nn.Linear(hidden_size, hidden_size, bias=False)
        self.key = nn.Linear(hidden_size, hidden_size, bias=False)
        self.value = nn.Linear(hidden_size, hidden_size, bias=False)
        self.decay = LowRank(hidden_size, decay_rank, nn.Tanh())
        self.decay_bias = nn.Parameter(torch.empty(hidden_size))
        self.rate = LowRank(hidden_size, config.rate_rank or decay_rank, nn.Identity())
        self.rate_bias = nn.Parameter(torch.empty(hidden_size))
        self.gate = LowRank(hidden_size, gate_rank, nn.Sigmoid())
        self.erase_scale = nn.Parameter(torch.empty(hidden_size))
        self.key_rate = nn.Parameter(torch.empty(hidden_size))
        self.bonus = nn.Parameter(torch.empty(hidden_size))
        self.norm_weight = nn.Parameter(torch.empty(hidden_size))
        self.norm_bias = nn.Parameter(torch.empty(hidden_size))
        self.output = nn.Linear(hidden_size, hidden_size, bias=False)

    def init_state(self, batch: int) -> RWKV7State:
        """Zeros."""
        weight = self.key.weight
        hidden_size, heads = len(weight), self.num_heads
        width = hidden_size // heads
        dtype = torch.promote_types(weight.dtype, torch.float32)
        return RWKV7State(
            weight.new_zeros(batch, hidden_size),
            weight.new_zeros(batch, heads, width, width, dtype=dtype),
        )

    def forward(
        self, x: Float[Tensor, "B T D"], state: RWKV7State | None = None, flow: Flow = Flow()
    ) -> tuple[Float[Tensor, "B T D"], RWKV7State]:
        """Read and write along the sequence; ``state=None`` starts fresh."""
        state = self.init_state(len(x)) if state is None else state
        before, last = shift(x, state.last, flow)
        mixed = {name: x + (before - x) * m.to(x.dtype) for name, m in self.mix.items()}
        q, k, v = self.query(mixed["query"]), self.key(mixed["key"]), self.value(mixed["value"])
        decay = self.decay(mixed["decay"]) + self.decay_bias
        rate = self.rate(mixed["rate"]) + self.rate_bias
        with torch.autocast(x.device.type, enabled=False):
            dtype = torch.promote_types(x.dtype, torch.float32)
            q, k, v, decay, rate = (self._heads(h.to(dtype)) for h in (q, k, v, decay, rate))
            rate = torch.sigmoid(rate)
            erase_key = unit(k * self._heads(self.erase_scale))
            k = k * (1 + (rate - 1) * self._heads(self.key_rate))
            y, weight = diagonal_delta_rule(
                q,
                k,
                v,
                log_alpha=STRONGEST * torch.sigmoid(decay),
                erase_key=erase_key,
                eraser=rate * erase_key,
                state=DiagonalState(state.weight),
                reset=flow.reset,
                mask=flow.mask,
            )
            y = functional.layer_norm(y, y.shape[-1:], eps=NORM_EPS)
            y = y * self._heads(self.norm_weight) + self._heads(self.norm_bias)
            y = y + (q * k * self._heads(self.bonus)).sum(-1, keepdim=True) * v
        y = y.flatten(2).to(x.dtype) * self.gate(mixed["gate"])
        return self.output(y), RWKV7State(last, weight.weight)

    def _heads(self, x: Float[Tensor, "*N D"]) -> Float[Tensor, "*N H K"]:
        return x.unflatten(-1, (self.num_heads, -1))

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator | None = None) -> None:
        """As the released training code initialises a layer at half depth, without exact zeros.

        Channels differ from the start: in their share of the previous token, and in decay, with
        half-lives from thousands of tokens down to a few.
        """
        size = len(self.key.weight)
        index = torch.arange(size, dtype=torch.float64)
        line = index / (size - 1)
        for name, exponent in RAMPS.items():
            self.mix[name].copy_(1 - (index / size) ** (exponent * (1 - DEPTH)))
        for linear, scale in ((self.query, 0.5), (self.key, 0.05), (self.value, 0.5)):
            bound = scale / math.sqrt(size)
            linear.weight.uniform_(-bound, bound, generator=generator)
        for part in (self.decay, self.rate, self.gate):
            part.init_weights(generator)
        width = size // self.num_heads
        middle = (width - 1) / 2
        zigzag = (index % width - middle) / middle
        zigzag = zigzag * zigzag.abs()
        self.decay_bias.copy_(-5.5 + 6 * line ** (1 + DEPTH**0.3) + 2.5 * zigzag)
        self.rate_bias.copy_(-0.19 + 0.3 * zigzag + 0.4 * (line - 0.5))
        self.erase_scale.copy_(0.71 - 0.1 * (line - 0.5))
        self.key_rate.fill_(1.02)
        self.bonus.fill_(-0.04)
        self.norm_weight.fill_(DEPTH**0.7)
        self.norm_bias.zero_()
        self.output.weight.normal_(std=INITIAL_STD, generator=generator)

    def levels(self) -> list[Level]:
        """One matrix a head, written at every token."""
        width = len(self.key.weight) // self.num_heads
        return [
            Level(
                name="S",
                period=1,
                parameters=self.num_heads * width**2,
                per_sequence=True,
                objective="|S k - v|^2 / 2",
                rule="delta rule with decay, rate and decay by channel",
                context="the pairs (k, v) of the document so far",
                transfer=(READ, MADE),
            )
        ]


def steps_of_32(x: float) -> int:
    """The nearest multiple of 32, at least 32.

    >>> steps_of_32(1.8 * 768**0.5), steps_of_32(0.6 * 768**0.8), steps_of_32(7.0)
    (64, 128, 32)
    """
    return max(32, 32 * round(x / 32))


def shift(
    x: Float[Tensor, "B T D"], last: Float[Tensor, "B D"], flow: Flow = Flow()
) -> tuple[Float[Tensor, "B T D"], Float[Tensor, "B D"]]:
    """Each token's predecessor in its document (zero for the first), and the open document's last.

    ``last`` is the last token of the earlier call. Masked positions come last in their document.
    """
    length = x.shape[1]
    if not length:
        return x, last
    padded = torch.cat((last[:, None].to(x.dtype), x), dim=1)
    before = padded[:, :-1]
    ends = valid_lengths(flow, length)
    after = padded[:, -1]
    if ends is not None:
        after = padded.gather(1, ends[:, None, None].expand(-1, 1, x.shape[-1]))[:, 0]
    starts = document_starts(flow, length)
    if flow.reset is not None and starts is not None:
        before = torch.where(flow.reset[..., None], 0.0, before)
        # a document that starts at a masked position has no token yet
        none = starts[:, -1] >= (length if ends is None else ends)
        after = torch.where(none[:, None], 0.0, after)
    return before, after.to(last.dtype)
