"""The gate by which Titans combines the outputs of attention and of the long-term memory."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional


class Gating(nn.Module):
    """``norm(y) * silu(norm(m))``, each norm with a learned vector.

    Source: arXiv 2501.00663, section 4.2: normalisation with learned vectors, then a
    non-linearity. Deviates: the paper does not say to which of the two it applies; here to the
    memory's output, as in the gate of ``Titans``.
    """

    def __init__(self, hidden_size: int):
        super().__init__()
        self.norm = nn.RMSNorm(hidden_size, eps=1e-6)
        self.memory_norm = nn.RMSNorm(hidden_size, eps=1e-6)

    def forward(
        self, y: Float[Tensor, "B T D"], m: Float[Tensor, "B T D"]
    ) -> Float[Tensor, "B T D"]:
        """Gate the output of attention by that of the memory."""
        return self.norm(y) * functional.silu(self.memory_norm(m))

    @torch.no_grad()
    def init_weights(self) -> None:
        """Set the weights of the norms to one."""
        self.norm.weight.fill_(1)
        self.memory_norm.weight.fill_(1)
