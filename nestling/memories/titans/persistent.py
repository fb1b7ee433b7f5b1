"""Persistent memory: learned tokens, independent of the data."""

import torch
from jaxtyping import Float
from torch import Tensor, nn


class PersistentTokens(nn.Module):
    """Learned tokens that precede every document.

    Source: arXiv 2501.00663, section 3.3. They are prepended to a layer's normalised inputs.
    """

    tokens: nn.Parameter | None

    def __init__(self, count: int, hidden_size: int):
        super().__init__()
        tokens = nn.Parameter(torch.empty(count, hidden_size)) if count else None
        self.register_parameter("tokens", tokens)

    def forward(self) -> Float[Tensor, "P D"] | None:
        """The tokens; None if there are none."""
        # a copy is aligned to 64 bytes, which loaded weights need not be: with another alignment
        # the same product may be summed in another order
        return None if self.tokens is None else self.tokens.clone()

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator | None = None) -> None:
        """Draw them with unit variance, like normalised inputs."""
        if self.tokens is not None:
            self.tokens.normal_(0, 1, generator=generator)
