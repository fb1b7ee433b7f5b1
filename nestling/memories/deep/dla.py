"""Deep linear attention: a network written by the gradient of a dot product."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from nestling.core.error import UserError
from nestling.core.level import Level
from nestling.memories.deep.memory import DeepMemory, DeepOptions, levels_of
from nestling.memories.deep.network import Weights, Write, descend, gradients, init_layers, write
from nestling.ops.momentum_gated_delta_rule.chunk import coefficients


class DLA(DeepMemory):
    """Linear attention whose memory is a network.

        M_t = alpha_t M_{t-1} - eta_t grad -<M_anchor(k_t), v_t>

    With a matrix (``layers=1``) the gradient is -v k^T for any anchor: gated linear attention, plus
    the residual and the initial memory.

    Source: arXiv 2505.23735, section 2 (DLA of its experiments). Deviates: as ``DeepMemory``.
    Cost: time O(layers expansion D^2 / H) per token beyond the projections; state twice the
    network's weights per head.
    """

    update: ClassVar[str] = "M <- alpha M + eta grad <M(k), v>, M a network"
    source: ClassVar[str] = "arXiv 2505.23735 section 2"

    @dataclass(frozen=True, kw_only=True)
    class Config(DeepOptions):
        """Options of the memory."""

        initial_length: float = 0.1  # length of M(x) - x at the start of training, for unit x
        eta_max: float = 1.0  # largest step
        eta_init: float = 0.2  # the same at the start of training

        def __post_init__(self):
            super().__post_init__()
            if not 0 < self.eta_init < self.eta_max:
                raise UserError(
                    f"eta_init is {self.eta_init}, eta_max {self.eta_max}; "
                    "give 0 < eta_init < eta_max"
                )

    def __init__(self, config: Config, *, hidden_size: int, num_heads: int):
        super().__init__(
            config,
            hidden_size=hidden_size,
            num_heads=num_heads,
            gates={"eta": config.eta_init / config.eta_max},
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
        slopes = gradients(anchor, k, k, v, "dot")
        return descend(slopes, strength, self.config.epsilon)

    def _strength(self, gates: dict[str, Tensor]) -> Float[Tensor, "B H C"]:
        return self.config.eta_max * gates["eta"]

    def _write(
        self,
        writes: list[Write],
        weights: Weights,
        momenta: Weights,
        gates: dict[str, Tensor],
        mask: Bool[Tensor, "B H C"] | None,
        x: Float[Tensor, "B H C F"],
    ) -> tuple[Float[Tensor, "B H C D"], Weights, Weights]:
        decays = coefficients(gates["alpha"], None, None, mask)
        return write(weights, momenta, self.base(), writes, decays, x)

    def levels(self) -> list[Level]:
        """The network, written at every token."""
        return levels_of(self, "-<M(k), v>", "gradient descent with decay", None)
