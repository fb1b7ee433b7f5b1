"""Persistent memory: tokens that depend on no data."""

import torch
from jaxtyping import Float
from torch import Tensor, nn


class PersistentTokens(nn.Module):
    """Learned tokens that stand before every document, whatever it says.

    Source: arXiv 2501.00663, section 3.3. They stand where a layer's normalised inputs do.
    """

    tokens: nn.Parameter | None

    def __init__(self, count: int, hidden_size: int):
        super().__init__()
        tokens = nn.Parameter(torch.empty(count, hidden_size)) if count else None
        self.register_parameter("tokens", tokens)

    def forward(self) -> Float[Tensor, "P D"] | None:
        """The tokens; None without any."""
        # a copy lies at a boundary of 64 bytes, where loaded weights need not: at other places in
        # memory the same product may be summed in another order
        return None if self.tokens is None else self.tokens.clone()

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator | None = None) -> None:
        """Draw them of the size of normalised inputs."""
        if self.tokens is not None:
            self.tokens.normal_(0, 1, generator=generator)
