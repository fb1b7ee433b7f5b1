"""Gated DeltaNet as a memory: the delta rule with a decay that depends on the input."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from nestling.memories.linear.delta import DeltaMemory, Retention, soft_unit
from nestling.memories.linear.matrix import Tokens, head_width, in_full


class GatedDeltaNet(DeltaMemory):
    """The gated delta rule: decay first, then one step of descent on |M k - v|^2 / 2.

        M <- alpha M (I - beta k k^T) + beta v k^T
        alpha = exp(-A softplus(w_a.x + alpha_bias)),  beta = sigmoid(w_b.x), twice that with
        ``allow_neg_eigval``;   y = RMSNorm(M q / sqrt K) * silu(W_G x)

    Source: arXiv 2412.06464 (rule, and block: convolutions, SiLU, unit keys and queries, gate) and
    its public code (keys of 3/4 of the width, values of twice that). Deviates: as many heads as the
    backbone.
    Cost: time O(T (C + K) V H), plus C^2 per token for the triangular system of a chunk of C
    tokens; state: H K V numbers per row.
    """

    kind: ClassVar[str] = "gated delta net"
    update: ClassVar[str] = "M <- alpha M (I - beta k k^T) + beta v k^T"
    source: ClassVar[str] = "arXiv 2412.06464"
    float32: ClassVar[tuple[str, ...]] = Retention.FLOAT32

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Options of the memory."""

        key_share: float = 0.75  # channels of all keys, as a fraction of hidden_size
        expand_value: float = 2.0  # channels of a value, as a multiple of those of a key
        convolution: int = 4  # tokens the short convolutions see
        allow_neg_eigval: bool = False  # True: beta in (0, 2), so that a key's sign can flip
        output_gate: bool = True  # False: the read is normalised, not gated

    def __init__(self, config: Config, *, hidden_size: int, num_heads: int):
        key_width = config.key_share * hidden_size
        super().__init__(
            hidden_size=hidden_size,
            num_heads=num_heads,
            keys=head_width(key_width, num_heads),
            values=head_width(config.expand_value * key_width, num_heads),
            convolution=config.convolution,
            gate=functional.silu if config.output_gate else None,
        )
        self.config = config
        self.retention = Retention(hidden_size, num_heads)

    def tokens(
        self,
        x: Float[Tensor, "B T D"],
        q: Float[Tensor, "B T H K"],
        k: Float[Tensor, "B T H K"],
        v: Float[Tensor, "B T H V"],
    ) -> Tokens:
        """Erase what the key reads from the matrix after its decay."""
        beta = torch.sigmoid(in_full(self.beta(x))) * (1 + self.config.allow_neg_eigval)
        alpha, q, k = self.retention(x), soft_unit(q), soft_unit(k)
        return Tokens(q, k, beta[..., None] * v, alpha, alpha * beta)

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator | None = None) -> None:
        """Normal weights of standard deviation 0.02; retentions of many lengths."""
        self.init_frame(generator)
        self.retention.init_weights(generator)
