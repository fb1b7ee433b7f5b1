"""A small vision transformer: patches as tokens, and the class from their mean."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True, kw_only=True)
class VitConfig:
    """Sizes of the transformer."""

    side: int = 28  # pixels of the picture
    patch: int = 7  # pixels of a patch
    hidden_size: int = 64
    num_layers: int = 4
    num_heads: int = 4
    mlp_size: int = 256
    classes: int = 10


class VitBlock(nn.Module):
    """Attention over all patches, then a two-layer network, each after a norm."""

    def __init__(self, config: VitConfig):
        super().__init__()
        self.num_heads = config.num_heads
        width = config.hidden_size
        self.attention_norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)
        self.mlp_norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, config.mlp_size)
        self.down = nn.Linear(config.mlp_size, width)

    def forward(self, x: Float[Tensor, "B P D"]) -> Float[Tensor, "B P D"]:
        """Apply both, with residuals."""
        qkv = self.qkv(self.attention_norm(x)).unflatten(-1, (3, self.num_heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + self.output(mixed)
        return x + self.down(functional.gelu(self.up(self.mlp_norm(x))))


class Vit(nn.Module):
    """A vision transformer for small pictures.

    Source: Dosovitskiy et al., arXiv 2010.11929. Deviates: mean of the patches, no class token.

    >>> Vit(VitConfig(num_layers=1))(torch.zeros(2, 28, 28)).shape
    torch.Size([2, 10])
    """

    def __init__(self, config: VitConfig):
        super().__init__()
        self.config = config
        count = (config.side // config.patch) ** 2
        self.embedding = nn.Linear(config.patch**2, config.hidden_size)
        self.position = nn.Parameter(torch.zeros(count, config.hidden_size))
        self.blocks = nn.ModuleList(VitBlock(config) for _ in range(config.num_layers))
        self.norm = nn.LayerNorm(config.hidden_size)
        self.head = nn.Linear(config.hidden_size, config.classes)

    def forward(self, pictures: Float[Tensor, "B S S"]) -> Float[Tensor, "B C"]:
        """The logits of the classes."""
        size = self.config.patch
        patches = pictures.unfold(1, size, size).unfold(2, size, size).flatten(3).flatten(1, 2)
        x = self.embedding(patches) + self.position
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x).mean(1))


def create_vit(config: VitConfig, seed: int) -> Vit:
    """Create a transformer with weights from a seed, without using torch's global generator."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Vit(config)
