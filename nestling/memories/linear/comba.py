"""Comba as a memory: the delta rule with an erase key of its own and a corrected query."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nestling.memories.linear.delta import DeltaMemory, Retention
from nestling.memories.linear.matrix import Tokens, head_width, in_full


class Comba(DeltaMemory):
    """Closed-loop control of a matrix: feedback of the state (p) and of the output (d).

        M <- alpha M + beta (v - M p) k^T,   p = b k    b = sigmoid(erase_logit), of each head
        y = RMSNorm(M (q - d k) / sqrt K) * sigmoid(W_G x)      d of each head, learned
        alpha = exp(-A softplus(w_a.x + alpha_bias)),  beta = sigmoid(w_b.x)

    M p is read from the matrix before its decay: the transition is a scalar plus a matrix of low
    rank, alpha I - beta b k k^T, where Gated DeltaNet has their product.

    Source: arXiv 2506.02475 (transition, feedback, q - d k) and its public code (what M p reads,
    sigmoid gate, initial values). Deviates from that code: q - d k, there q - d p; b is not lost
    again in a normalisation of p, as it is there; as many heads as the backbone has.
    Cost: time O(T (C + K) V H), and C^2 more a token for the triangular system of a chunk of C
    tokens; state H K V numbers a row.
    """

    kind: ClassVar[str] = "comba"
    update: ClassVar[str] = "M <- alpha M + beta (v - M p) k^T, p = b k; y = M (q - d k)"
    source: ClassVar[str] = "arXiv 2506.02475"

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Options of the memory."""

        key_share: float = 0.75  # channels of all keys, as a fraction of hidden_size
        expand_value: float = 2.0  # channels of a value, as a multiple of those of a key
        convolution: int = 4  # tokens the short convolutions see
        output_gate: bool = True  # False: what is read is normalised, not gated
        correction_init: float = 1.0  # d at the start of training; 0.02 suits small models

    def __init__(self, config: Config, *, hidden_size: int, num_heads: int):
        key_width = config.key_share * hidden_size
        super().__init__(
            hidden_size=hidden_size,
            num_heads=num_heads,
            keys=head_width(key_width, num_heads),
            values=head_width(config.expand_value * key_width, num_heads),
            convolution=config.convolution,
            gate=torch.sigmoid if config.output_gate else None,
        )
        self.config = config
        self.retention = Retention(hidden_size, num_heads)
        self.erase_logit = nn.Parameter(torch.empty(num_heads))
        self.correction = nn.Parameter(torch.empty(num_heads))

    def tokens(
        self,
        x: Float[Tensor, "B T D"],
        q: Float[Tensor, "B T H K"],
        k: Float[Tensor, "B T H K"],
        v: Float[Tensor, "B T H V"],
    ) -> Tokens:
        """What is erased is read with a shorter key, from the matrix before its decay."""
        beta = torch.sigmoid(in_full(self.beta(x)))
        shorter = torch.sigmoid(in_full(self.erase_logit))[:, None] * k
        q = q - self.correction[:, None] * k
        return Tokens(q, k, beta[..., None] * v, self.retention(x), beta, shorter)

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator | None = None) -> None:
        """Normal weights of standard deviation 0.02; retentions of many lengths; b = 0.73."""
        self.init_frame(generator)
        self.retention.init_weights(generator)
        self.erase_logit.fill_(1.0)
        self.correction.fill_(self.config.correction_init)
