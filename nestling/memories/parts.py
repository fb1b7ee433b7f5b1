"""Parts that several memories share: short convolution, normalisation, gates."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from nestling.core.memory import Flow
from nestling.ops.short_convolution import available, convolve, plain


def unit(x: Float[Tensor, "*N D"]) -> Float[Tensor, "*N D"]:
    """Scale the last dimension to unit length; zero stays zero."""
    return functional.normalize(x, dim=-1, eps=1e-6)


def in_order(x: Float[Tensor, "*N"]) -> Float[Tensor, "*N"]:
    """x; under torch.compile, its gradient has the memory layout of x.

    Needed after softplus and elu: torch 2.13 assumes this layout for their compiled gradients.
    """
    return x.flatten().view(x.shape) if torch.compiler.is_compiling() else x


def matrix(linear: nn.Module) -> tuple[Float[Tensor, "N D"], Float[Tensor, " N"] | None]:
    """The weight and bias of a linear map that is used without being called.

    If an adapter wraps the map (LoRA and others), both are computed by calling it, at the cost of D
    more tokens; the adapter's dropout is then the same for all tokens.
    """
    if type(linear) is nn.Linear:
        return linear.weight, linear.bias
    assert isinstance(linear.weight, Tensor) and isinstance(linear.in_features, int)
    weight = linear.weight
    unit = torch.eye(linear.in_features, dtype=weight.dtype, device=weight.device)
    bias = linear(torch.zeros_like(unit[:1]))
    return (linear(unit) - bias).mT, bias[0]


def document_starts(flow: Flow, length: int) -> Int[Tensor, "B T"] | None:
    """The start of each position's document in this call; None if no document starts in it.

    A large negative number where the document started in an earlier call.
    """
    if flow.reset is None:
        return None
    index = torch.arange(length, device=flow.reset.device)
    starts = torch.where(flow.reset, index, index.new_full((), -(1 << 30)))
    return starts.cummax(dim=1).values


def valid_lengths(flow: Flow, length: int) -> Int[Tensor, " B"] | None:
    """For each row, the position after its last valid one (0 if none). None if all are valid."""
    if flow.mask is None:
        return None
    index = torch.arange(1, length + 1, device=flow.mask.device)
    return (flow.mask * index).amax(dim=1)


def positions_of(
    seen: Int[Tensor, " B"], flow: Flow, length: int
) -> tuple[Int[Tensor, "B T"], Int[Tensor, " B"]]:
    """For each position the valid tokens before it in its document; and those of the last document.

    ``seen`` counts the tokens of the open document before this call.
    """
    valid = torch.ones(len(seen), length, dtype=torch.long, device=seen.device)
    if flow.mask is not None:
        valid = flow.mask.long()
    before, total = seen[:, None] + valid.cumsum(1) - valid, seen + valid.sum(1)
    if flow.reset is None or not length:
        return before, total
    # `before` never falls, so its value at the last reset is the largest one at a reset so far
    start = before.where(flow.reset, 0).cummax(1).values
    return before - start, total - start[:, -1]


class ShortConvolution(nn.Module):
    """Causal depth-wise convolution along time, followed by SiLU; it stops at document starts.

    ``bias`` adds one bias per channel; without ``activation`` there is no SiLU.

    Shapes: x [B, T, D], tail [B, width - 1, D] (the last inputs of the earlier call, oldest
    first, zero before the document).

    Source: arXiv 2512.24695, section 8 (local convolutions of window 4). Cost: O(T D width).
    """

    def __init__(
        self, channels: int, width: int = 4, *, bias: bool = False, activation: bool = True
    ):
        super().__init__()
        self.width = width
        self.activation = activation
        self.weight = nn.Parameter(torch.empty(channels, width))
        self.bias = nn.Parameter(torch.empty(channels)) if bias else None

    def init_weights(self, generator: torch.Generator | None = None) -> None:
        """Draw uniform weights, scaled as in torch for a convolution of this width; bias 0."""
        bound = 1 / math.sqrt(self.width)
        with torch.no_grad():
            self.weight.uniform_(-bound, bound, generator=generator)
            if self.bias is not None:
                self.bias.zero_()

    def init_tail(self, batch: int) -> Float[Tensor, "B W D"]:
        """The tail before the first token: zeros."""
        return self.weight.new_zeros(batch, self.width - 1, len(self.weight))

    def forward(
        self, x: Float[Tensor, "B T D"], tail: Float[Tensor, "B W D"], flow: Flow = Flow()
    ) -> tuple[Float[Tensor, "B T D"], Float[Tensor, "B W D"]]:
        """Convolve, starting from ``tail``; return the output and the new tail."""
        length = x.shape[1]
        if not length:
            return x, tail
        starts = document_starts(flow, length)
        form = convolve if length > 1 and available(x) else plain
        bias = None if self.bias is None else self.bias.to(x.dtype)
        y = form(
            x,
            tail.to(x.dtype),
            self.weight.to(x.dtype),
            bias,
            starts=starts,
            activation=self.activation,
        )
        return y, self._tail(x, tail, starts, flow)

    def _tail(
        self,
        x: Float[Tensor, "B T D"],
        tail: Float[Tensor, "B W D"],
        starts: Int[Tensor, "B T"] | None,
        flow: Flow,
    ) -> Float[Tensor, "B W D"]:
        before, length = self.width - 1, x.shape[1]
        ends = valid_lengths(flow, length)
        if ends is None:
            recent = x[:, max(0, length - before) :].to(tail.dtype)
            after = torch.cat([tail[:, recent.shape[1] :], recent], dim=1)
            ends = torch.full((len(x),), length, device=x.device)
        else:
            padded = torch.cat([tail, x.to(tail.dtype)], dim=1)
            positions = ends[:, None] + torch.arange(before, device=x.device)
            after = padded.gather(1, positions[..., None].expand(-1, -1, x.shape[-1]))
        if starts is not None:
            # a reset of a masked position counts as well
            positions = ends[:, None] + torch.arange(before, device=x.device)
            inside = positions - before >= starts[:, -1:]
            after = torch.where(inside[..., None], after, 0.0)
        return after


@torch.no_grad()
def start_with_recall(projection: nn.Linear, convolution: ShortConvolution) -> None:
    """Initialise a memory to find what followed an earlier occurrence of its input.

    ``projection`` maps to queries, keys and values at once, ``convolution`` follows it; both must
    be initialised. Queries and keys get one projection, and keys also see the previous token.
    """
    q, k, _ = projection.weight.chunk(3)
    k.copy_(q)
    q, k, v = convolution.weight.mul_(0.2).chunk(3)
    q[:, -1] += 1
    v[:, -1] += 1
    k[:, -2:] += math.sqrt(0.5)


def half_life_bias(heads: int, shortest: float, longest: float) -> Float[Tensor, " H"]:
    """Biases b whose sigmoid(b) is a retention with half-lives spread geometrically over heads.

    ``shortest`` and ``longest`` are in tokens; a retention alpha has half-life ln 2 / -ln alpha.
    """
    exponents = torch.linspace(math.log(shortest), math.log(longest), heads)
    alpha = torch.exp(-math.log(2.0) / exponents.exp())
    return torch.logit(alpha.double()).to(torch.float32)
