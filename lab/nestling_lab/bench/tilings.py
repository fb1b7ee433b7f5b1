"""Compares the chunk size chosen by the cost model with the fastest one on this machine."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from nestling.core.error import UserError
from nestling.ops.momentum_gated_delta_rule import OP
from nestling.ops.momentum_gated_delta_rule.tiling import SIZES, chunk_for
from nestling_lab.bench.op_speed import Form, with_gradients
from nestling_lab.bench.turns import Contestant, say, spread, take_turns

KINDS = {  # (erases, momentum), as in tiling.py:COSTS
    "eraser and momentum": (True, True),
    "eraser": (True, False),
    "momentum": (False, True),
    "neither": (False, False),
}


class Tokens(NamedTuple):
    """A shape: rows, tokens per row, heads, and the width of keys and values."""

    rows: int
    length: int
    heads: int
    width: int

    @classmethod
    def parse(cls, text: str) -> "Tokens":
        """Parse ROWSxLENGTHxHEADSxWIDTH. Raises UserError for anything else.

        >>> Tokens.parse("4x512x4x64")
        Tokens(rows=4, length=512, heads=4, width=64)
        """
        parts = text.split("x")
        if len(parts) != 4 or not all(part.isdigit() and int(part) for part in parts):
            raise UserError(
                f"{text!r} is not a shape; write ROWSxLENGTHxHEADSxWIDTH, like 4x512x4x64"
            )
        return cls(*map(int, parts))

    def __str__(self) -> str:
        return "x".join(map(str, self))


def _times(shape: Tokens, erases: bool, momentum: bool, rounds: int) -> dict[int, float]:
    """The median seconds of the chunk form, forward and backward, by chunk size."""
    drawn = OP.inputs(
        0, batch=shape.rows, length=shape.length, heads=shape.heads, key=shape.width,
        value=shape.width, momentum=momentum, dtype=torch.float32,
    )  # fmt: skip
    tokens = {name: x for name, x in drawn.items() if erases or name != "beta"}

    def form(size: int) -> Form:
        return lambda tokens: OP.chunk(**tokens, chunk_size=size)[0]

    entrants = {
        size: Contestant(name=str(size), work=lambda f=form(size): with_gradients(f, tokens))
        # a chunk is at most as long as the row
        for size in sorted({min(size, shape.length) for size in SIZES})
    }
    for entrant in entrants.values():
        entrant.work()
    take_turns(list(entrants.values()), rounds=rounds, quiet=True)
    return {size: spread(entrant.seconds).median for size, entrant in entrants.items()}


def tilings(
    shapes: Sequence[Tokens], *, rounds: int = 3, quiet: bool = False
) -> dict[str, dict[str, Any]]:
    """For every kind and shape: milliseconds by size, the chosen size, and the fastest one.

    Measures the chunk form in torch, forward and backward, on a CPU; sizes take turns.
    ``over_best`` is the time of the chosen size relative to the fastest.
    """
    if rounds < 1:
        raise UserError(f"rounds is {rounds}; give at least 1")
    found: dict[str, dict[str, Any]] = {}
    for kind, (erases, momentum) in KINDS.items():
        for shape in shapes:
            seconds = _times(shape, erases, momentum, rounds)
            chosen = chunk_for(
                rows=shape.rows * shape.heads, key=shape.width, value=shape.width,
                erases=erases, momentum=momentum,
            )  # fmt: skip
            chosen = min(chosen, shape.length)
            best = min(seconds, key=seconds.__getitem__)
            found.setdefault(kind, {})[str(shape)] = {
                "milliseconds": {str(size): 1e3 * s for size, s in seconds.items()},
                "chosen": chosen,
                "best": best,
                "over_best": seconds[chosen] / seconds[best],
            }
            say(f"{kind}, {shape}: {chosen} chosen, {best} fastest", quiet)
    return found
