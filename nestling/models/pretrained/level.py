"""The specification of levels: how often each is written, and how."""

import math
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from nestling.core.error import UserError
from nestling.rules.level import CMSLevel, check_share

FROZEN = ("inf", "frozen")


@dataclass(frozen=True, kw_only=True)
class LevelSpec:
    """The specification of one level: its part of a model's MLPs, its period and its rule."""

    period: int | float  # tokens between two writes; math.inf: never written
    lr: float = 1e-4  # learning rate of a write
    rule: str = "adam"  # how a write is made: a name of nestling.rules.RULES
    clip: float | None = 1.0  # largest gradient norm of a write; None: no limit
    trust: float | None = 0.1  # largest distance from the base, relative to its norm; None: any
    layers: tuple[int, ...] | None = None  # layers whose MLPs it gets; None: a share of all
    # nested: whenever the next slower level is written, the start of this one moves towards it by
    # this fraction, and it is reset to its start (``nestling.rules.level.rewind``); None: never
    share: float | None = None
    # studied: each document makes a change of this rank (``nestling.continual.study``)
    rank: int | None = None

    def __post_init__(self):
        check_share(self.share, "the share of a level")
        if self.rank is not None and self.rank < 1:
            raise UserError(f"the rank of a level is {self.rank}; give at least 1")
        if math.isnan(self.period) or not (self.frozen or self.period == int(self.period)):
            raise UserError(f"the period of a level is {self.period}; give whole tokens, or inf")
        if not self.frozen:
            self.writer()
        elif self.share is not None:
            raise UserError("a level that is never written is never reset; leave out its share")

    @property
    def frozen(self) -> bool:
        """Whether it is never written."""
        return math.isinf(self.period)

    def writer(self) -> CMSLevel:
        """The options of its writer; values out of range raise UserError."""
        return CMSLevel(
            period=int(self.period), rule=self.rule, lr=self.lr, clip=self.clip, trust=self.trust
        )

    @property
    def text(self) -> str:
        """In the syntax of `--levels`."""
        if self.rank is not None:
            return f"rank {self.rank}"
        share = "" if self.share is None else f":{self.share:g}"
        return "inf" if self.frozen else f"{self.period}:{self.lr:g}:{self.rule}{share}"

    def record(self) -> dict[str, Any]:
        """As plain JSON values."""
        found = {
            "period": None if self.frozen else int(self.period),
            "lr": self.lr,
            "rule": self.rule,
            "clip": self.clip,
            "trust": self.trust,
            "layers": None if self.layers is None else list(self.layers),
            "share": self.share,
        }
        return found if self.rank is None else found | {"rank": self.rank}

    @classmethod
    def of(cls, record: dict[str, Any]) -> "LevelSpec":
        """The inverse of ``record``."""
        layers = record["layers"]
        return cls(
            period=math.inf if record["period"] is None else record["period"],
            lr=record["lr"],
            rule=record["rule"],
            clip=record["clip"],
            trust=record["trust"],
            layers=None if layers is None else tuple(layers),
            share=record.get("share"),  # files from before nested levels have none
            rank=record.get("rank"),
        )


def parse_levels(text: str) -> tuple[LevelSpec, ...]:
    """Parse levels from ``period[:lr[:rule[:share]]],...``, slow to fast.

    >>> [level.text for level in parse_levels("64:1e-3::0.1,512,inf")]
    ['inf', '512:0.0001:adam', '64:0.001:adam:0.1']
    """
    return in_order(tuple(_parse(part.strip()) for part in text.split(",")))


def _parse(part: str) -> LevelSpec:
    period, *rest = part.split(":")
    if len(rest) > 3:
        raise UserError(f"level {part!r} has too many parts; write period[:lr[:rule[:share]]]")
    try:
        values: dict[str, Any] = {"period": math.inf if period in FROZEN else int(period)}
        if rest and rest[0]:
            values["lr"] = float(rest[0])
        if len(rest) > 2 and rest[2]:
            values["share"] = float(rest[2])
    except ValueError as error:
        raise UserError(
            f"level {part!r} cannot be read; write period[:lr[:rule[:share]]], as in 512:1e-4:adam"
        ) from error
    if len(rest) > 1 and rest[1]:
        values["rule"] = rest[1]
    return LevelSpec(**values)


def in_order(levels: tuple[LevelSpec, ...]) -> tuple[LevelSpec, ...]:
    """The levels, slow to fast; periods that do not divide each other raise UserError.

    So does a share on the slowest written level, which nothing would ever reset.
    """
    if [level for level in levels if level.rank is not None]:
        if len(levels) > 1:
            raise UserError("a studied level cannot be combined with others; leave them out")
        return levels
    ordered = tuple(sorted(levels, key=lambda level: -level.period))
    finite = [int(level.period) for level in ordered if not level.frozen]
    if not finite:
        raise UserError("no level is ever written; give at least one period in tokens")
    for slow, fast in pairwise(finite):
        if slow == fast or slow % fast:
            raise UserError(
                f"periods {fast} and {slow} do not fit; give different ones, each dividing the next"
            )
    if len(ordered) - len(finite) > 1:
        raise UserError("give at most one level that is never written")
    slowest = ordered[len(ordered) - len(finite)]
    if slowest.share is not None:
        raise UserError(
            f"level {slowest.text} is the slowest that is written, so nothing resets it; leave out "
            "its share"
        )
    return ordered


def with_layers(levels: tuple[LevelSpec, ...], text: str | None) -> tuple[LevelSpec, ...]:
    """The levels, slow to fast, with the layers of each: ``0-9,10,11-14``; None: equal shares.

    >>> [level.layers for level in with_layers(parse_levels("8,16"), "0-1,3")]
    [(0, 1), (3,)]
    """
    if text is None:
        return levels
    shares = text.split(",")
    if len(shares) != len(levels):
        raise UserError(f"{len(levels)} levels need as many ranges of layers, not {len(shares)}")
    pairs = zip(levels, shares, strict=True)
    return tuple(replace(level, layers=_range(share.strip())) for level, share in pairs)


def _range(text: str) -> tuple[int, ...]:
    first, _, last = text.partition("-")
    if not first.isdigit() or not (last or first).isdigit():
        raise UserError(f"layers {text!r} cannot be read; write a range such as 10-19")
    return tuple(range(int(first), int(last or first) + 1))
