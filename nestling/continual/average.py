"""Running averages of the weights: slower levels that no gradient writes."""

from collections.abc import Sequence

import torch
from torch import Tensor

from nestling.core.error import UserError
from nestling.rules.level import LevelState

# an average's difference from the base: tensors for each written level
Average = tuple[tuple[Tensor, ...], ...]


def spans(asked: Sequence[int] | None, period: int) -> tuple[int, ...]:
    """The spans of the averages in tokens, slow to fast, given the fastest period of a level.

    A span that is not a multiple of that period, is less than two periods, or occurs twice raises
    UserError.

    >>> spans((16, 64), 8)
    (64, 16)
    """
    found = tuple(sorted(asked or (), reverse=True))
    for span in found:
        if span <= period or span % period:
            raise UserError(
                f"an average over {span} tokens is too short or not whole; give a multiple of the "
                f"fastest period, {period}, at least twice as long"
            )
    if len(set(found)) < len(found):
        raise UserError("two averages are over the same number of tokens; give each once")
    return found


def parse_spans(text: str) -> tuple[int, ...]:
    """Spans from ``tokens,...``; anything else raises UserError.

    >>> parse_spans("2048,8192")
    (2048, 8192)
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise UserError(f"averages {text!r} cannot be read; write tokens, such as 2048,8192")
    return tuple(map(int, parts))


def at_base(levels: Sequence[LevelState]) -> Average:
    """An average before the first write: all zero."""
    return tuple(tuple(torch.zeros_like(m[0]) for m in level.moved) for level in levels)


def moved_on(average: Average, levels: Sequence[LevelState], part: float) -> Average:
    """The average moved a fraction towards the current weights: ``a <- a + part (W - a)``."""
    return tuple(
        tuple(torch.lerp(old, m[0], part) for old, m in zip(own, level.moved, strict=True))
        for own, level in zip(average, levels, strict=True)
    )


def without(average: Average, index: int) -> Average:
    """The average with one level reset to the base."""
    own = tuple(map(torch.zeros_like, average[index]))
    return (*average[:index], own, *average[index + 1 :])
