"""The continuum memory system as a chain: MLP levels in series, fast to slow."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nestling.core.error import UserError
from nestling.core.level import Level
from nestling.core.memory import Flow, Memory, TrainedLevel
from nestling.core.transfer import Transfer
from nestling.memories.mlp import SwiGLU, default_intermediate_size
from nestling.rules.level import check_periods, check_share


class ChainLevel(nn.Module):
    """One level of the chain: ``x + SwiGLU(RMSNorm(x))``."""

    def __init__(self, hidden_size: int, intermediate_size: int):
        super().__init__()
        self.norm = nn.RMSNorm(hidden_size, eps=1e-6)
        self.network = SwiGLU(hidden_size, intermediate_size)

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        """Add the output of the level."""
        return x + self.network(self.norm(x))


class CMS(Memory):
    """Chain of residual MLP levels, each written once in its own period of tokens.

    ``x <- x + MLP_l(RMSNorm_l(x))`` for the levels l from fast to slow. The levels are plain
    parameters; ``nestling.optim.Leveled`` steps each at its period with the gradients accumulated
    since (regime R2), and nothing is written in context (``cms_context``: regime R1). With
    ``shares`` the levels are nested: a write of a level resets the next faster one. A chain of one
    level with a period of one step is the feed-forward block of a Transformer.

    Source: arXiv 2512.24695, Eq 70-72, with the residuals that the paper leaves out. Deviates: the
    sum of Eq 71 runs over C tokens, not the printed C + 1; the order is fast to slow (Fig 5).
    """

    residual: ClassVar[bool] = False
    update: ClassVar[str] = "none in context; each level by the optimizer at its period"
    source: ClassVar[str] = "arXiv 2512.24695 Eq 70-71"
    # they need about a quarter of the learning rate of embeddings and mixers (docs/log.md)
    rates: ClassVar[Mapping[str, float]] = {r"network\.\w+\.weight": 0.25}

    retired: ClassVar[Mapping[str, tuple[Any, str]]] = {
        "regime": ("training", "for levels written in context put cms_context in the pattern")
    }

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Options of the memory."""

        periods: tuple[int, ...] = (512, 2048)  # tokens between two writes; each divides the next
        intermediate_size: int | None = None  # width of each level; None: 8/3 hidden / levels
        # nested: for each level but the slowest, the fraction by which its start moves towards it
        # when a write of the next slower level resets it; None, or no shares: never reset
        shares: tuple[float | None, ...] = ()

        def __post_init__(self):
            check_periods(self.periods, "cms.periods")
            if self.shares and len(self.shares) != len(self.periods) - 1:
                raise UserError(
                    f"cms.shares has {len(self.shares)} entries; give a share or null for each of "
                    f"the {len(self.periods) - 1} levels with a slower one, or leave it out"
                )
            for share in self.shares:
                check_share(share, "a share in cms.shares")
            if self.intermediate_size is not None and self.intermediate_size < 1:
                raise UserError(
                    f"cms.intermediate_size is {self.intermediate_size}; give at least 1"
                )

    def __init__(self, config: Config, *, hidden_size: int, num_heads: int):
        super().__init__()
        self.config = config
        count = len(config.periods)
        width = config.intermediate_size or -(-default_intermediate_size(hidden_size) // count)
        self.chain = nn.ModuleList(ChainLevel(hidden_size, width) for _ in config.periods)

    def init_state(self, batch: int) -> None:
        """None: nothing is kept between calls."""

    def forward(
        self, x: Float[Tensor, "B T D"], state: Any = None, flow: Flow = Flow()
    ) -> tuple[Float[Tensor, "B T D"], None]:
        """Apply the levels to every position, fast to slow; residuals included."""
        for level in self.chain:
            x = level(x)
        return x, None

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator | None = None) -> None:
        """Norms at one, normal weights of standard deviation 0.02."""
        for level in self.chain:
            assert isinstance(level, ChainLevel)
            level.norm.weight.fill_(1.0)
            level.network.init_weights(generator)

    def trained_levels(self) -> list[TrainedLevel]:
        """The levels of the chain, fast to slow."""
        return [
            TrainedLevel(period, tuple(level.parameters()), share)
            for period, level, share in zip(
                self.config.periods, self.chain, self.shares(), strict=True
            )
        ]

    def shares(self) -> list[float | None]:
        """The share of each level, fast to slow; None: it is not reset."""
        return [*(self.config.shares or (None,) * (len(self.chain) - 1)), None]

    def levels(self) -> list[Level]:
        """The levels of the chain, fast to slow."""
        return [self._level(index) for index in range(len(self.chain))]

    def _transfer(self, index: int) -> tuple[Transfer, ...]:
        """One gradient flow along the chain; a slower level also sets a nested one's start."""
        if index + 1 == len(self.chain):
            what = "used together with them, written less often"
            return (Transfer(kind="back-propagation", partner="weights", what=what),)
        slower = f"cms.{index + 1}"
        flow = Transfer(
            kind="back-propagation", partner=slower, what="its output passes through that level"
        )
        if self.shares()[index] is None:
            return (flow,)
        what = "at its writes this start moves, and this level is reset to it"
        return flow, Transfer(kind="initialisation", partner=slower, what=what)

    def _level(self, index: int) -> Level:
        return Level(
            name=f"cms.{index}",
            period=self.config.periods[index],
            parameters=sum(p.numel() for p in self.chain[index].parameters()),
            objective="next-token prediction",
            rule="the outer optimizer, with the gradient accumulated over the period",
            context=f"{self.config.periods[index]} tokens of the training stream",
            transfer=self._transfer(index),
        )
