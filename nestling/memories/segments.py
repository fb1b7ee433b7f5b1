"""Split a sequence where periods and documents begin."""

import torch
from jaxtyping import Int
from torch import Tensor

from nestling.core.memory import Flow


def segments(
    count: Int[Tensor, " B"], flow: Flow, length: int, period: int
) -> list[tuple[int, int, bool | None]]:
    """Cut [0, length) so that rows start documents and periods only at a segment's first token.

    ``count`` is the tokens each row's document has so far; periods count from the document start.
    Each segment comes with a flag: it ends a period in all rows (True), in none (False), or in some
    or unknown (None).
    """
    if length <= 1:
        return [(0, length, None)] if length else []
    starts, valid = flow.reset, flow.mask
    if valid is None:
        valid = torch.ones(len(count), length, dtype=torch.bool, device=count.device)
    seen = valid.long().cumsum(1)
    position = count[:, None] + seen
    if starts is not None:
        # tokens before the document's start do not count
        before = torch.where(starts, seen - valid.long(), -1).cummax(1).values
        position = torch.where(before >= 0, seen - before, position)
    ends = (position % period == 0) & valid
    cut = torch.zeros(length + 1, dtype=torch.bool, device=count.device)
    cut[1:] |= ends.any(0)
    if starts is not None:
        cut[:-1] |= starts.any(0)
    if flow.mask is not None:
        cut[period::period] = True
    cut[0] = cut[length] = True
    # one read for all: every read waits for the accelerator
    found = torch.cat((cut.float(), ends.float().mean(0))).tolist()
    points = [place for place, here in enumerate(found[: length + 1]) if here]
    share = found[length + 1 :]
    known = {0.0: False, 1.0: True}
    return [(a, b, known.get(share[b - 1])) for a, b in zip(points[:-1], points[1:], strict=True)]
