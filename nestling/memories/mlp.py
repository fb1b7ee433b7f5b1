"""A feed-forward network as a memory, written by training only."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from nestling.core.error import UserError
from nestling.core.level import Level
from nestling.core.memory import Flow, Memory
from nestling.core.transfer import Transfer

INITIAL_STD = 0.02


def default_intermediate_size(hidden_size: int) -> int:
    """The width that gives a gated network as many parameters as a plain one of width 4 D.

    That is 8/3 D, rounded to a multiple of 64.

    >>> default_intermediate_size(256)
    704
    """
    return -(-8 * hidden_size // 3 // 64) * 64


class SwiGLU(nn.Module):
    """Gated network ``down(silu(gate(x)) * up(x))``, without biases.

    Source: arXiv 2002.05202, section 2 (SwiGLU).
    """

    def __init__(self, hidden_size: int, intermediate_size: int):
        super().__init__()
        self.gate = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.up = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.output = nn.Linear(intermediate_size, hidden_size, bias=False)

    def forward(self, x: Float[Tensor, "*N D"]) -> Float[Tensor, "*N D"]:
        """Apply it to every position."""
        return self.output(functional.silu(self.gate(x)) * self.up(x))

    def init_weights(self, generator: torch.Generator | None = None) -> None:
        """Normal weights of standard deviation 0.02."""
        for linear in (self.gate, self.up, self.output):
            linear.weight.normal_(std=INITIAL_STD, generator=generator)


class MLP(Memory):
    """A SwiGLU network, the slowest memory: trained, but never written in context."""

    residual: ClassVar[bool] = True
    update: ClassVar[str] = "none in context"
    source: ClassVar[str] = "arXiv 2002.05202"

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Options of the memory."""

        intermediate_size: int | None = None  # width inside; None: 8/3 of hidden_size, to next 64

        def __post_init__(self):
            if self.intermediate_size is not None and self.intermediate_size < 1:
                raise UserError(
                    f"mlp.intermediate_size is {self.intermediate_size}; give at least 1"
                )

    def __init__(self, config: Config, *, hidden_size: int, num_heads: int):
        super().__init__()
        width = config.intermediate_size or default_intermediate_size(hidden_size)
        self.network = SwiGLU(hidden_size, width)

    def init_state(self, batch: int) -> None:
        """None: nothing is kept between calls."""

    def forward(
        self, x: Float[Tensor, "B T D"], state: Any = None, flow: Flow = Flow()
    ) -> tuple[Float[Tensor, "B T D"], None]:
        """Apply the network to every position."""
        return self.network(x), None

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator | None = None) -> None:
        """Normal weights of standard deviation 0.02."""
        self.network.init_weights(generator)

    def levels(self) -> list[Level]:
        """One level that the context never writes."""
        return [
            Level(
                name="mlp",
                period=math.inf,
                parameters=sum(p.numel() for p in self.parameters()),
                objective="next-token prediction",
                rule="the outer optimizer, in training only",
                context="the training data",
                transfer=(
                    Transfer(
                        kind="back-propagation",
                        partner="weights",
                        what="trained together with them",
                    ),
                ),
            )
        ]
