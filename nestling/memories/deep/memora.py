"""Memora: a network whose weights are distributions, written by mirror descent."""

import math
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from nestling.core.error import UserError
from nestling.core.level import Level
from nestling.core.network import gelu_and_slope
from nestling.memories.deep.again import Again
from nestling.memories.deep.memory import DeepMemory, DeepOptions, levels_of
from nestling.memories.deep.network import Weights, Write
from nestling.ops.momentum_gated_delta_rule.chunk import segment_products

NORM_EPSILON = 1e-5  # added to the variance in the network's layer norm


class Memora(DeepMemory):
    """A memory whose writes are mirror descent steps, close to the old weights in KL divergence.

        M(x) = x + LN(W_1 gelu(W_2 x)),   the loss |M(k) - v|^2 / 2
        W_t = c Softmax(alpha_t log W_{t-1} - eta_t grad)

    Each row of a layer, the weights of one unit, is c times a distribution over its n inputs: c = n
    in the first layer, so that the mean weight is one, and sqrt(n) after it, so that the layer norm
    gets inputs of order one.

    The state is A, with W = c Softmax(A). A softmax ignores a constant per row, so inside a period,
    with all gradients taken at the anchor, A_t = alpha_t A_{t-1} - eta_t grad is exact and linear.
    Reads use W_t: one softmax per layer and token, for all tokens of a segment at once, recomputed
    in the backward pass.

    In hidden layers the step is multiplied by sqrt(n) / (epsilon + |u|^2), so that a write moves
    their outputs by eta grad, as it does in the first layer with keys of unit length. eta is
    eta_max / period times a sigmoid.

    Source: arXiv 2504.13173, Eq 21 and 27, sections 5.3-5.4. Deviates: as ``DeepMemory``, with A
    decaying to its initial value (``decay_to="zero"``: to equal weights, as printed); c and the
    bounds of the step, which the paper leaves open; alpha and eta per head, not per channel; the
    paper drops softmax and logarithm inside a chunk, except at its first token, which is not
    necessary.
    Cost: time and, for one segment, memory O(C layers expansion D^2 / H) exponentials beyond the
    projections; state twice the network's weights per head.
    """

    update: ClassVar[str] = "W <- Softmax(alpha log W - eta grad |M(k) - v|^2)"
    source: ClassVar[str] = "arXiv 2504.13173 Eq 27"
    float32: ClassVar[tuple[str, ...]] = (*DeepMemory.float32, "inner_scale", "inner_shift")

    @dataclass(frozen=True, kw_only=True)
    class Config(DeepOptions):
        """Options of the memory."""

        eta_max: float = 1.0  # largest step, summed over a period
        eta_init: float = 0.5  # the same at the start of training
        clip: float = 4.0  # largest root mean square of an error M(k) - v

        def __post_init__(self):
            super().__post_init__()
            if not 0 < self.eta_init < self.eta_max:
                raise UserError(
                    f"eta_init is {self.eta_init}, eta_max {self.eta_max}; "
                    "give 0 < eta_init < eta_max"
                )
            if self.clip <= 0:
                raise UserError(f"clip is {self.clip}; give a number above 0")

    def __init__(self, config: Config, *, hidden_size: int, num_heads: int):
        super().__init__(
            config,
            hidden_size=hidden_size,
            num_heads=num_heads,
            gates={"eta": config.eta_init / config.eta_max},
        )
        self.config = config
        self.inner_scale = nn.Parameter(torch.empty(hidden_size))
        self.inner_shift = nn.Parameter(torch.empty(hidden_size))

    @torch.no_grad()
    def _init_network(self, generator: torch.Generator | None) -> None:
        for weight in self.initial_layers:
            weight.normal_(0, 1, generator=generator)
        self.inner_scale.fill_(1)
        self.inner_shift.zero_()

    def _strength(self, gates: dict[str, Tensor]) -> Float[Tensor, "B H C"]:
        return gates["eta"] * (self.config.eta_max / self.config.period)

    def _writes(
        self,
        anchor: Weights,
        k: Float[Tensor, "B H N D"],
        v: Float[Tensor, "B H N D"],
        strength: Float[Tensor, "B H N"],
    ) -> list[Write]:
        weights = [distributions(a, layer) for layer, a in enumerate(anchor)]
        x, inputs, slopes = k, [], []
        for layer, weight in enumerate(weights):
            if layer:
                x, slope = gelu_and_slope(x)
                slopes.append(slope)
            inputs.append(x)
            x = (centred(x) if layer == len(weights) - 1 else x) @ weight.mT
        g = self._back(k, x, v)
        writes: list[Write] = []
        for layer in range(len(weights) - 1, -1, -1):
            u, step = inputs[layer], strength
            if layer:
                width = math.sqrt(u.shape[-1])
                step = strength * width / (self.config.epsilon + u.square().sum(-1))
            writes.insert(0, Write(u, -step[..., None] * g))
            if layer:
                g = slopes[layer - 1] * (g @ weights[layer])
        return writes

    def _back(
        self,
        k: Float[Tensor, "B H N D"],
        z: Float[Tensor, "B H N D"],
        v: Float[Tensor, "B H N D"],
    ) -> Float[Tensor, "B H N D"]:
        """Gradient of the loss with respect to z, M(k) = k + LN(z); the error is clipped."""
        normal = centred(z)
        rate = (normal.square().mean(-1, keepdim=True) + NORM_EPSILON).rsqrt()
        normal = normal * rate
        error = k + self._norm(z) - v
        size = error.square().mean(-1, keepdim=True)
        clip = self.config.clip
        g = error * (clip * size.clamp(min=clip**2).rsqrt()) * self._by_head(self.inner_scale, z)
        return rate * (centred(g) - normal * (g * normal).mean(-1, keepdim=True))

    def _norm(self, z: Float[Tensor, "B H N D"]) -> Float[Tensor, "B H N D"]:
        normal = functional.layer_norm(z, z.shape[-1:], eps=NORM_EPSILON)
        return normal * self._by_head(self.inner_scale, z) + self._by_head(self.inner_shift, z)

    def _by_head(self, x: Float[Tensor, " D"], like: Tensor) -> Float[Tensor, "H 1 K"]:
        return x.view(self.num_heads, 1, -1).to(like.dtype)

    def _write(
        self,
        writes: list[Write],
        weights: Weights,
        momenta: Weights,
        gates: dict[str, Tensor],
        mask: Bool[Tensor, "B H C"] | None,
        x: Float[Tensor, "B H C F"],
    ) -> tuple[Float[Tensor, "B H C D"], Weights, Weights]:
        alpha = gates["alpha"]
        decay = segment_products(alpha if mask is None else torch.where(mask, alpha, 1.0))
        base, after = self.base(), []
        for layer, write in enumerate(writes):
            x = functional.gelu(x) if layer else x
            x = centred(x) if layer == len(writes) - 1 else x
            fixed = x.new_zeros(()) if base is None else base[layer]
            one_layer = partial(_write_layer, layer=layer)
            x, new = Again.apply(one_layer, weights[layer], fixed, *write, x, decay)
            after.append(new)
        return self._norm(x), tuple(after), momenta

    def levels(self) -> list[Level]:
        """The network, written at every token."""
        return levels_of(self, "|M(k) - v|^2 / 2", "mirror descent with decay", None)


def centred(x: Float[Tensor, "*N D"]) -> Float[Tensor, "*N D"]:
    """x minus its mean.

    Exactly equivalent for the inputs of the last layer: all rows have the same sum, so the mean
    adds one number to all units, which the norm removes. But the mean may be a hundred times the
    differences between units, which would then drown in rounding.
    """
    return x - x.mean(-1, keepdim=True)


def distributions(logs: Float[Tensor, "*N O I"], layer: int) -> Float[Tensor, "*N O I"]:
    """c Softmax of each row; c is the number of inputs n in the first layer, else sqrt(n).

    >>> distributions(torch.zeros(1, 2), 0).tolist()
    [[1.0, 1.0]]
    """
    inputs = logs.shape[-1]
    return torch.softmax(logs, -1) * (math.sqrt(inputs) if layer else inputs)


def _write_layer(
    logs: Float[Tensor, "B H O I"],
    base: Float[Tensor, "*H_O_I"],
    u: Float[Tensor, "B H C I"],
    w: Float[Tensor, "B H C O"],
    x: Float[Tensor, "B H C I"],
    decay: Float[Tensor, "B H C C1"],
    layer: int,
) -> tuple[Float[Tensor, "B H C O"], Float[Tensor, "B H O I"]]:
    """Read one layer at x after each of its C writes; also its final deviation from the base."""
    added = (decay[..., 1:, None] * w[:, :, None]).mT @ u[:, :, None]
    whole = added + decay[..., 0, None, None] * logs[:, :, None]
    weights = distributions(whole + base.unsqueeze(-3) if base.ndim else whole, layer)
    return torch.einsum("bhtoi,bhti->bhto", weights, x), whole[:, :, -1]
