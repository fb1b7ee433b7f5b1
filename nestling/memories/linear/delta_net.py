"""DeltaNet as a memory: the value stored under a key is replaced, at a learned rate."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from nestling.memories.linear.delta import DeltaMemory, soft_unit
from nestling.memories.linear.matrix import Tokens, head_width, in_full


class DeltaNet(DeltaMemory):
    """The delta rule: one step of gradient descent on |M k - v|^2 / 2 at each token.

        M <- M (I - beta k k^T) + beta v k^T,   beta = sigmoid(w.x), twice that with
                                                ``allow_neg_eigval``;   y = RMSNorm(M q / sqrt K)

    Source: arXiv 2406.06484 and its public code (rule, convolutions, SiLU, unit keys and queries,
    norm before the output); arXiv 2411.12537 (beta up to 2). Deviates: nothing.
    Cost: time O(T (C + K) V H), plus C^2 per token for the triangular system of a chunk of C
    tokens; state: H K V numbers per row.
    """

    kind: ClassVar[str] = "delta net"
    update: ClassVar[str] = "M <- M (I - beta k k^T) + beta v k^T"
    source: ClassVar[str] = "arXiv 2406.06484"

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Options of the memory."""

        convolution: int = 4  # tokens the short convolutions see
        allow_neg_eigval: bool = False  # True: beta in (0, 2), so that a key's sign can flip

    def __init__(self, config: Config, *, hidden_size: int, num_heads: int):
        width = head_width(hidden_size, num_heads)
        super().__init__(
            hidden_size=hidden_size,
            num_heads=num_heads,
            keys=width,
            values=width,
            convolution=config.convolution,
            gate=None,
        )
        self.config = config

    def tokens(
        self,
        x: Float[Tensor, "B T D"],
        q: Float[Tensor, "B T H K"],
        k: Float[Tensor, "B T H K"],
        v: Float[Tensor, "B T H V"],
    ) -> Tokens:
        """No decay; erases as much as it writes."""
        beta = torch.sigmoid(in_full(self.beta(x))) * (1 + self.config.allow_neg_eigval)
        keep = torch.ones_like(beta)
        return Tokens(soft_unit(q), soft_unit(k), beta[..., None] * v, keep, beta)

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator | None = None) -> None:
        """Normal weights of standard deviation 0.02."""
        self.init_frame(generator)
