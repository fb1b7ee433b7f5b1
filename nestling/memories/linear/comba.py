"""Comba as a memory: the delta rule with a separate erase key and a corrected query."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nestling.memories.linear.delta import DeltaMemory, Retention, soft_unit
from nestling.memories.linear.matrix import Tokens, head_width, in_full


class Comba(DeltaMemory):
    """Closed-loop control of a matrix: feedback of the state (p) and of the output (d).

        M <- alpha M + beta (v - M p) k^T          b = sigmoid(erase_logit), d: learned per head
        y = RMSNorm(M q / sqrt K) * sigmoid(W_G x)
        alpha = exp(-A softplus(w_a.x + alpha_bias)),  beta = sigmoid(w_b.x)
        form "code":   q = u(W_q x - d b W_k x),  k = u(W_k x),  p = u(b W_k x)
        form "paper":  q = u(W_q x) - d k,        k = u(W_k x),  p = b k

    W_q and W_k stand for map, convolution and SiLU; u scales to unit length. In the form "code" b
    therefore cancels in p and only corrects the query. M p is read from the matrix before its
    decay: the transition is alpha I - beta p k^T, a scalar plus a low-rank matrix, where Gated
    DeltaNet has a product.

    Source: arXiv 2506.02475 and its public code. Deviates: as many heads as the backbone.
    Cost: time O(T (C + K) V H), plus C^2 per token for the triangular system of a chunk of C
    tokens; state: H K V numbers per row.
    """

    kind: ClassVar[str] = "comba"
    update: ClassVar[str] = "M <- alpha M + beta (v - M p) k^T, p ~ k; y = M q, q corrected by k"
    source: ClassVar[str] = "arXiv 2506.02475"
    float32: ClassVar[tuple[str, ...]] = (*Retention.FLOAT32, "erase_logit", "correction")

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Options of the memory."""

        key_share: float = 0.75  # channels of all keys, as a fraction of hidden_size
        expand_value: float = 2.0  # channels of a value, as a multiple of those of a key
        convolution: int = 4  # tokens the short convolutions see
        output_gate: bool = True  # False: the read is normalised, not gated
        correction_init: float = 1.0  # d at the start of training; 0.02 suits small models
        form: Literal["code", "paper"] = "code"  # the public code's, or as the paper prints it

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
        """Erase along p, reading the matrix before its decay."""
        beta = torch.sigmoid(in_full(self.beta(x)))
        b, d = torch.sigmoid(in_full(self.erase_logit))[:, None], self.correction[:, None]
        if self.config.form == "code":
            p = b * k
            q, k, p = soft_unit(q - d * p), soft_unit(k), soft_unit(p)
        else:
            q, k = soft_unit(q), soft_unit(k)
            q, p = q - d * k, b * k
        return Tokens(q, k, beta[..., None] * v, self.retention(x), beta, p)

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator | None = None) -> None:
        """Normal weights of standard deviation 0.02; retentions of many lengths; b = 0.73."""
        self.init_frame(generator)
        self.retention.init_weights(generator)
        self.erase_logit.fill_(1.0)
        self.correction.fill_(self.config.correction_init)
