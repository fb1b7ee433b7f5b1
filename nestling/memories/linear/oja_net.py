"""OjaNet as a memory: a Hebbian write, bounded by erasing what the value already stores."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from nestling.core.memory import Flow
from nestling.memories.linear.delta import CorrectedMemory, Retention, soft_unit
from nestling.memories.linear.matrix import Tokens, head_width, in_full, scan


class OjaNet(CorrectedMemory):
    """Oja's rule: one step of gradient descent on -<M phi(k), v> + |M^T v|^2 / 2 at each token.

        M <- alpha M + eta v (phi(k) - M^T v)^T,   y = RMSNorm(M phi(q))
        alpha = exp(-A softplus(w_a.x + alpha_bias)), 1 without ``decay``;   eta = sigmoid(w.x)

    phi scales to unit length; values have unit length, too. The delta rule erases what a key reads;
    this erases what a value reads, M^T v. It is the delta rule of the transposed matrix with values
    as keys, so the kernel runs twice: first for M^T v, then for the write.

    Bounded: alpha I - eta v v^T has norm max(alpha, |alpha - eta|) <= 1, and a write has a norm of
    at most eta.

    Source: arXiv 2512.24695, Eq 66-67, after arXiv 2206.01649. Deviates: values of unit length,
    because eta |v|^2 would be unbounded; convolutions and norm of the delta family.
    Cost: twice that of DeltaNet for the recurrence; state: H K V numbers per row.
    """

    kind: ClassVar[str] = "oja net"
    minimised: ClassVar[str] = "-<M k, v> + |M^T v|^2 / 2"
    update: ClassVar[str] = "M <- alpha M + eta v (k - M^T v)^T"
    source: ClassVar[str] = "arXiv 2512.24695 Eq 66-67; 2206.01649"
    float32: ClassVar[tuple[str, ...]] = Retention.FLOAT32

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Options of the memory."""

        convolution: int = 4  # tokens the short convolutions see
        decay: bool = True  # False: alpha is 1, and nothing fades but what a value reads

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
        self.retention = Retention(hidden_size, num_heads) if config.decay else None

    def recur(
        self,
        x: Float[Tensor, "B T D"],
        q: Float[Tensor, "B T H K"],
        k: Float[Tensor, "B T H K"],
        v: Float[Tensor, "B T H V"],
        weight: Float[Tensor, "B H V K"],
        flow: Flow,
    ) -> tuple[Float[Tensor, "B T H V"], Float[Tensor, "B H V K"]]:
        """Compute what each value reads of the matrix, then write the rest of its key."""
        eta = torch.sigmoid(in_full(self.beta(x)))
        alpha = torch.ones_like(eta) if self.retention is None else self.retention(x)
        q, k, v = soft_unit(q), soft_unit(k), soft_unit(v)
        transposed = Tokens(v, v, eta[..., None] * k, alpha, eta)
        found, _ = scan(transposed, weight.mT, flow, read="pre")
        return scan(Tokens(q, eta[..., None] * (k - found), v, alpha), weight, flow)

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator | None = None) -> None:
        """Normal weights of standard deviation 0.02; retentions of many lengths."""
        self.init_frame(generator)
        if self.retention is not None:
            self.retention.init_weights(generator)
