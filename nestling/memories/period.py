"""Periods: shared code of memories that take all gradients of a period at its opening weights.

The state of such a memory has ``anchor``, the weights at the start of the current period;
``weight`` and ``momentum``, the present values of its recurrence; ``count``, the tokens of each
row's document so far; and ``tail``, the last inputs of its convolution. Weights are a tuple of
tensors, one per layer, [B, H, ...], or [B, H, M, ...] for M memories side by side, whose periods
may differ.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nestling.core.memory import Flow
from nestling.memories.segments import segments


class Segment(NamedTuple):
    """Tokens in which documents start only at the first one and periods end only at the last one.

    ``ends``: a period ends with it in all rows (True), in none (False), or in some or unknown
    (None).
    """

    begin: int
    end: int
    valid: Bool[Tensor, "B C"] | None
    ends: bool | None

    @property
    def here(self) -> slice:
        """The positions of its tokens."""
        return slice(self.begin, self.end)


def read_by_period(
    read: Callable[[Segment, Any], tuple[Float[Tensor, "B H C D"], Any]],
    state: Any,
    start: Any | None,
    flow: Flow,
    length: int,
    period: int,
) -> tuple[list[Float[Tensor, "B H C D"]], Any]:
    """Read segment by segment: ``read(segment, state) -> (y, state)``.

    ``start`` is the state before a document; needed if one may start in this call.
    """
    outputs = []
    for begin, end, ends in segments(state.count, flow, length, period):
        if flow.reset is not None:
            state = start_rows(state, start, flow.reset[:, begin])
        valid = None if flow.mask is None else flow.mask[:, begin:end]
        y, state = read(Segment(begin, end, valid, ends), state)
        outputs.append(y)
    return outputs, state


def start_rows(state: Any, start: Any, rows: Bool[Tensor, " B"]) -> Any:
    """These rows as in ``start``, except for the tail, which the convolution handles itself."""
    if not bool(rows.any()):
        return state

    def choose(new: Tensor, old: Tensor) -> Tensor:
        return torch.where(rows.view(-1, *(1,) * (old.ndim - 1)), new, old)

    return map_pairs(choose, start._replace(tail=None), state)._replace(tail=state.tail)


def advance(
    state: Any,
    weight: Sequence[Tensor | None],
    momentum: Sequence[Tensor | None],
    periods: Sequence[int],
    valid: Bool[Tensor, "B C"] | None,
    length: int,
    ends: bool | None,
) -> Any:
    """The state after a segment of ``length`` tokens; anchors move in rows whose period ends.

    ``periods``: one number, or one per memory; ``ends`` as in ``Segment``.
    """
    count = state.count + (length if valid is None else valid.sum(1))
    if ends is None:
        ends = period_ends(count, periods, valid)
    if ends is None:
        anchor = new_anchor(count, periods, valid, weight, state.anchor)
    else:
        anchor = weight if ends else state.anchor
    return state._replace(anchor=anchor, weight=weight, momentum=momentum, count=count)


def period_ends(
    count: Int[Tensor, " B"], periods: Sequence[int], valid: Bool[Tensor, "B C"] | None = None
) -> bool | None:
    """``ends`` for ``advance``; None unless the host knows it without a sync or graph break."""
    if count.device.type != "cpu" or torch.compiler.is_compiling():
        return None
    read = [True] * len(count) if valid is None else valid.any(1).tolist()
    pairs = zip(count.tolist(), read, strict=True)
    found = {some and n % period == 0 for n, some in pairs for period in set(periods)}
    return found.pop() if len(found) == 1 else None


def new_anchor(
    count: Int[Tensor, " B"],
    periods: Sequence[int],
    valid: Bool[Tensor, "B C"] | None,
    new: Sequence[Tensor | None],
    old: Sequence[Tensor | None],
) -> Any:
    """The new weights for the rows and memories whose period ends, the old ones for all others."""
    # made on the device: a copy from the host cannot be captured in a CUDA graph
    full = {period: count % period == 0 for period in set(periods)}
    if valid is not None:
        full = {period: moves & valid.any(1) for period, moves in full.items()}
    moves = torch.stack([full[period] for period in periods], dim=1)

    def choose(new: Tensor, old: Tensor) -> Tensor:
        wide = moves[:, None] if old.ndim > 4 else moves  # with a place for heads
        return torch.where(wide[..., None, None], new, old)

    return map_pairs(choose, new, old)


def map_pairs(function: Callable[[Tensor, Tensor], Tensor], new: Any, old: Any) -> Any:
    """Apply to corresponding tensors; None where either is None."""
    if new is None or old is None:
        return None
    if isinstance(old, Tensor):
        return function(new, old)
    items = [map_pairs(function, x, y) for x, y in zip(new, old, strict=True)]
    return type(old)(*items) if hasattr(old, "_fields") else type(old)(items)
