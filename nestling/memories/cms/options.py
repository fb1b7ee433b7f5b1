"""Options that the in-context continuum memory systems share."""

from dataclasses import dataclass

from nestling.core.error import UserError, did_you_mean
from nestling.core.options import refuse_unread
from nestling.rules.level import CMSLevel, check_periods
from nestling.rules.objective import objective

THROUGH = ("full", "first")


@dataclass(frozen=True, kw_only=True)
class ContextConfig:
    """Options of a CMS whose levels are written inside the sequence (regime R1)."""

    periods: tuple[int, ...] = (16, 64)  # tokens between two writes; each divides the next
    intermediate_size: int | None = None  # width of each level; None: 8/3 hidden / levels
    # what a write minimises: "ntp" and "teach" need the model around the memory and read every
    # token two to three times; "local" was worse than no writes in every trial (docs/log.md)
    objective: str = "ntp"
    loss: str = "dot"  # of the objective "local": a name of nestling.rules.objective.OBJECTIVES
    rule: str = "gradient"  # how it is written: a name of nestling.rules.RULES
    learning_rate: float = 0.5  # of every level at the start; each learns its own factor
    clip: float | None = 1.0  # largest gradient norm of a write; None: no limit
    trust: float | None = 1.0  # largest distance from the initial state, in norms of it; None: any
    # outer gradients: "first" order, or "full": through the inner ones, at several times the cost
    through: str = "first"

    def __post_init__(self):
        check_periods(self.periods, "periods of the levels")
        if self.intermediate_size is not None and self.intermediate_size < 1:
            raise UserError(f"intermediate_size is {self.intermediate_size}; give at least 1")
        if self.through not in THROUGH:
            hint = did_you_mean(self.through, THROUGH)
            raise UserError(f"unknown value {self.through!r} of through: {hint}")
        objective(self.loss)
        self.level(0)
        if self.objective != "local":
            refuse_unread("cms", self, {"loss": f"objective={self.objective}"})

    def level(self, index: int) -> CMSLevel:
        """The options of level ``index`` (fast to slow)."""
        return CMSLevel(
            period=self.periods[index],
            rule=self.rule,
            lr=self.learning_rate,
            objective=self.objective,
            clip=self.clip,
            trust=self.trust,
        )
