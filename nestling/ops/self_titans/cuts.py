"""Cuts each row of a batch into the segments that the kernel processes."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from nestling.core.error import UserError
from nestling.core.shapes import checked

RESET, OPENS, KEEP, GROUP = 1, 2, 4, 8


class Cuts(NamedTuple):
    """The segments of all rows, row after row, and the token counts of each row.

    ``flags`` of a segment: a document starts here (RESET), a period starts (OPENS), the anchor
    that starts here is the last of the row (KEEP), the state is checkpointed (GROUP).
    """

    rows: Int[Tensor, " B1"]  # segments of row b are rows[b] to rows[b + 1]
    begin: Int[Tensor, " S"]
    count: Int[Tensor, " S"]  # tokens
    flags: Int[Tensor, " S"]
    closes: Int[Tensor, " B"]  # 1 if the row ends with a period, so the anchor is the final weight
    before: Int[Tensor, " B"]  # tokens of the open document before the call
    tokens: Int[Tensor, " B"]  # and after it
    groups: int  # the maximum over the rows
    length: int  # tokens of a row
    period: int  # tokens
    longest: int  # tokens of the longest segment

    def arrays(self) -> dict[str, Tensor]:
        """The arrays that are passed to a kernel."""
        names = ("rows", "begin", "count", "flags", "closes")
        return {name: getattr(self, name) for name in names}


def documents(
    start: int, reset: list[bool] | None, mask: list[bool] | None, length: int
) -> list[tuple[int, int, int, bool]]:
    """Yield (first position, valid tokens, earlier tokens of the document, is new) of a row.

    Within a document, masked positions must come last.
    """
    starts = [t for t in range(length) if reset[t]] if reset is not None else []
    edges = ([] if starts and starts[0] == 0 else [0]) + starts + [length]
    new = set(starts)
    found = []
    for begin, end in zip(edges[:-1], edges[1:], strict=True):
        valid = end - begin if mask is None else sum(mask[begin:end])
        found.append((begin, valid, 0 if begin in new else start, begin in new))
    return found


@checked
def cut(
    start: Int[Tensor, " B"],
    reset: Bool[Tensor, "B T"] | None,
    mask: Bool[Tensor, "B T"] | None,
    *,
    length: int,
    period: int,
    tokens: int,
    group: int,
) -> Cuts:
    """Cut rows at document starts, at the ends of periods, and after every ``tokens`` tokens.

    The state is checkpointed at the first segment of a row, and at the first start of a period
    after ``group`` segments.

    Raises UserError for flags of another shape and impossible counts.
    """
    if (
        reset is not None
        and reset.shape[1] != length
        or mask is not None
        and mask.shape[1] != length
    ):
        raise UserError(f"reset and mask must have {length} flags per row, one for each token")
    befores = start.tolist()
    if min(length, period - 1, tokens - 1, group - 1, *befores) < 0:
        raise UserError(
            f"cannot cut {length} tokens after {befores} into periods of {period}, segments of "
            f"{tokens} and groups of {group}"
        )
    resets = None if reset is None else reset.tolist()
    masks = None if mask is None else mask.tolist()
    rows, begins, counts, flags, closes, after = [0], [], [], [], [], []
    groups = 1
    for row, before in enumerate(befores):
        first, since, made, last_open = len(begins), group, 0, None
        seen = before
        of_row = None if resets is None else resets[row], None if masks is None else masks[row]
        for begin, valid, seen, new in documents(before, *of_row, length):
            pieces, position, flag = [], begin, RESET if new else 0
            while position < begin + valid or (new and not pieces):
                opens = OPENS if seen % period == 0 else 0
                take = min(tokens, period - seen % period, begin + valid - position)
                pieces.append((position, take, flag | opens))
                position, seen, flag = position + take, seen + take, 0
                if not take:
                    break
            for position, take, flag in pieces:
                if len(begins) == first or (since >= group and flag & OPENS):
                    flag, since, made = flag | GROUP, 0, made + 1
                if flag & OPENS:
                    last_open = len(begins)
                since += 1
                begins.append(position)
                counts.append(take)
                flags.append(flag)
        if last_open is not None:
            flags[last_open] |= KEEP
        groups = max(groups, made)
        rows.append(len(begins))
        closes.append(int(seen % period == 0))
        after.append(seen)
    lists = (rows, begins, counts, flags, closes, befores, after)
    values = (torch.tensor(x, dtype=torch.long) for x in lists)
    return Cuts(*values, groups, length, period, tokens)
