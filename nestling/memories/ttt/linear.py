"""TTT-Linear: the state of each head is a linear model, trained on the tokens it reads."""

from typing import ClassVar

from nestling.memories.ttt.base import TTT, TTTConfig


class TTTLinear(TTT):
    """Test-time training with the inner model f(x) = x + LN(W x + b).

    Source: arXiv 2407.04620, section 2.7 (TTT-Linear). Deviates, cost: as in ``TTT``.
    """

    name: ClassVar[str] = "ttt_linear"
    update: ClassVar[str] = (
        "G <- G + eta grad |x + LN(W x + b) - v|^2 / 2 at x = k, W of the last 16 tokens' end; "
        "every 16 tokens W <- W - G / 16"
    )

    class Config(TTTConfig):
        """Options of the memory."""

    @staticmethod
    def layer_sizes(width: int) -> tuple[int, ...]:
        """One layer, square."""
        return width, width
