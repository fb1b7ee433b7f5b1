"""The Omega rule: a network written with the gradients of a window of tokens."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from nestling.core.error import UserError
from nestling.core.level import Level
from nestling.core.options import refuse_unread
from nestling.memories.deep.memory import DeepMemory, DeepOptions, levels_of
from nestling.memories.deep.network import (
    Weights,
    Write,
    descend,
    gradients,
    init_layers,
    over_windows,
    windows,
    write,
)
from nestling.ops.momentum_gated_delta_rule.chunk import coefficients


@dataclass(frozen=True, kw_only=True)
class WindowOptions(DeepOptions):
    """Options of the memories that regress on a window."""

    initial_length: float = 0.1  # length of M(x) - x at the start of training, for unit x
    window: int = 16  # tokens whose errors each write reduces
    degree: int = 1  # of the polynomial features of keys and queries; 1: themselves
    clip: float = 4.0  # largest root mean square of an error M(k) - v
    gamma_init: float = 0.5  # gamma at the start of training, as a share of the largest
    momentum_init: float = 0.5  # mu at the start of training

    def __post_init__(self):
        super().__post_init__()
        for name in ("window", "degree"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; give at least 1")
        for name in ("gamma_init", "momentum_init"):
            if not 0 < getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; give a number between 0 and 1")
        if self.clip <= 0:
            raise UserError(f"clip is {self.clip}; give a number above 0")


class Omega(DeepMemory):
    """OmegaNet's memory: each write is a gradient step on the last ``window`` tokens.

        G_t = sum over i = t - c + 1 .. t of gamma_i grad |M_anchor(phi(k_i)) - v_i|^2 / 2
        M_t = alpha_t M_{t-1} - G_t
        with momentum:  S_t = mu_t S_{t-1} - (1 - mu_i) G_t,  M_t = alpha_t M_{t-1} + S_t

    The window extends across the start of a period, with gradients at the new anchor, but not
    across the start of a document. A token is written ``window`` times, and all at the anchor's
    error, so its weight gamma, a sigmoid of a linear map of the token, is divided by the window and
    by the period: a key that fills a whole period moves M(k) by at most ``gamma_max`` of its error,
    and not beyond v.

    In a chunk, windows only change which sums of gates multiply a token's gradient
    (``network.over_windows``), so time and memory are those of a window of one token.

    Source: arXiv 2505.23735, Eq 9-11 and 15; ``momentum`` is Atlas without Muon. Deviates: as
    ``DeepMemory``; gamma depends on the written token, not on its place in the window; polynomial
    features only with ``degree``, because heads of 64 have 2,144 of degree two, and an initial
    memory larger than the rest of the model; the squared error is halved.
    Cost: time O(layers expansion D^2 / H) per token beyond the projections; state 2 (with momentum
    3) times the network's weights, and 2 D numbers per token of the window, per head.
    """

    update: ClassVar[str] = "M <- alpha M - sum over a window of gamma grad |M(phi(k)) - v|^2"
    source: ClassVar[str] = "arXiv 2505.23735 Eq 9-11"

    @dataclass(frozen=True, kw_only=True)
    class Config(WindowOptions):
        """Options of the memory."""

        momentum: bool = False  # True: writes go through a momentum
        gamma_max: float = 1.0  # largest step, summed over a period

        def __post_init__(self):
            super().__post_init__()
            if self.gamma_max <= 0:
                raise UserError(f"gamma_max is {self.gamma_max}; give a number above 0")
            if not self.momentum:
                refuse_unread("omega", self, {"momentum_init": "momentum=false"})

    def __init__(self, config: Config, *, hidden_size: int, num_heads: int):
        gates = {"gamma": config.gamma_init}
        if config.momentum:
            gates["mu"] = config.momentum_init
        super().__init__(
            config,
            hidden_size=hidden_size,
            num_heads=num_heads,
            gates=gates,
            window=config.window,
            degree=config.degree,
            momentum=config.momentum,
        )
        self.config = config

    def _init_network(self, generator: torch.Generator | None) -> None:
        init_layers(self.initial_layers, self.config.initial_length, generator)

    def _writes(
        self,
        anchor: Weights,
        k: Float[Tensor, "B H N D"],
        v: Float[Tensor, "B H N D"],
        strength: Float[Tensor, "B H N"],
    ) -> list[Write]:
        slopes = gradients(anchor, self.features_of(k), k, v, "l2", self.config.clip)
        return descend(slopes, strength, self.config.epsilon)

    def _strength(self, gates: dict[str, Tensor]) -> Float[Tensor, "B H C"]:
        largest = self.config.gamma_max / (self.config.period * self.config.window)
        strength = largest * gates["gamma"]
        return strength * (1 - gates["mu"]) if self.config.momentum else strength

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
        found = coefficients(alpha, gates.get("mu"), None, mask)
        if self.window > 1:
            found = over_windows(found, windows(alpha.shape[-1], self.window, mask, alpha))
        return write(weights, momenta, self.base(), writes, found, x)

    def levels(self) -> list[Level]:
        """The network, and the momentum if there is one."""
        return levels_of(
            self,
            f"|M(phi(k)) - v|^2 / 2 of {self.window} tokens",
            "gradient descent with decay",
            "momentum" if self.momentum else None,
        )
