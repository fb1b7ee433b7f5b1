"""The boxes an optimizer adds to a nested system: its memories of gradients."""

from typing import NamedTuple

from nestling.core.error import UserError, did_you_mean
from nestling.core.level import Level


class Buffer(NamedTuple):
    """One memory of gradients: what it is called and how it is written."""

    name: str
    objective: str
    rule: str
    transfer: str


DIRECTION = "direct: the direction of the weights' step"
# Nested Learning, Eq 10-13 (momentum) and appendix B, Eq 100-111 (Adam)
BUFFERS: dict[str, tuple[Buffer, ...]] = {
    "sgd": (),
    "momentum": (Buffer("m", "-<m, g>", "Hebbian with decay: m <- beta m + g", DIRECTION),),
    "adamw": (
        Buffer("m", "-<m, g>", "Hebbian with decay: m <- beta1 m + (1 - beta1) g", DIRECTION),
        Buffer(
            "v",
            "|v - g^2|^2 / 2",
            "delta rule: v <- beta2 v + (1 - beta2) g^2",
            "direct: the size of the weights' step",
        ),
    ),
}


def optimizer_levels(optimizer: str, *, period: int, parameters: int) -> list[Level]:
    """The boxes an optimizer keeps for ``parameters`` weights written every ``period`` tokens.

    All share one level; the weights' own box depends on them (Def 2: same frequency, and the new
    weights need the new buffers). An unknown optimizer raises UserError.
    """
    if optimizer not in BUFFERS:
        raise UserError(f"unknown optimizer {optimizer!r}: {did_you_mean(optimizer, BUFFERS)}")
    return [
        Level(
            name=f"{optimizer} {buffer.name}, period {period}",
            period=period,
            parameters=parameters,
            objective=buffer.objective,
            rule=buffer.rule,
            context=f"gradients of the weights, one for each {period} tokens of a stream",
            transfer=buffer.transfer,
        )
        for buffer in BUFFERS[optimizer]
    ]
