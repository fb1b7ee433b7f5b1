"""TTT-MLP: the state of each head is a network of two layers, trained on the tokens."""

from dataclasses import dataclass
from typing import ClassVar

from nestling.memories.ttt.base import TTT, TTTConfig


class TTTMLP(TTT):
    """Test-time training with f(x) = x + LN(W_2 gelu(W_1 x + b_1) + b_2), 4 d wide inside.

    Source: arXiv 2407.04620, section 2.7 (TTT-MLP). Deviates, cost: as in ``TTT``.
    """

    name: ClassVar[str] = "ttt_mlp"
    update: ClassVar[str] = (
        "G <- G + eta grad |x + LN(MLP(x)) - v|^2 / 2 at x = k, MLP of the last 16 tokens' end; "
        "every 16 tokens MLP <- MLP - G / 16"
    )

    @dataclass(frozen=True, kw_only=True)
    class Config(TTTConfig):
        """Options of the memory."""

        eta_base: float = 0.1  # learning rate of the inner model for a gate of one

    @staticmethod
    def layer_sizes(width: int) -> tuple[int, ...]:
        """Two layers, the hidden one four times as wide."""
        return width, 4 * width, width
