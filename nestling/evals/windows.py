"""Windows for a document that is longer than the model can read."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from nestling.core.error import UserError, did_you_mean
from nestling.evals.reader import Reader

KINDS = ("rolling", "apart")


class Window(NamedTuple):
    """Tokens that are read at once, and those of them whose predictions count."""

    ids: list[int]
    lead: int  # number of leading tokens that are not part of the text
    begin: int  # index of the first token whose prediction counts


def windows(reader: Reader, ids: list[int], kind: str = "rolling") -> list[Window]:
    """Cut a document into windows so that every token is predicted once; none if it is empty.

    A model that reads any length gets one window. Otherwise windows are as long as the model can
    read:

    ``rolling``: the first window follows the start tokens, every other one the last token of the
    previous window; the last one reads as far back as possible and counts only the remaining
    tokens. This is what lm-eval (``loglikelihood_rolling``) and most papers do.
    ``apart``: every window follows the start tokens, as if it were a document of its own, which
    makes its first predictions a little worse.

    Deviates from lm-eval: start tokens added by the tokenizer are read but not counted; lm-eval
    counts them as tokens predicted after its own prefix.
    """
    if kind not in KINDS:
        raise UserError(f"unknown windows {kind!r}: {did_you_mean(kind, KINDS)}")
    start, horizon = reader.start, reader.horizon
    room = max(1, len(ids)) if horizon is None else horizon - len(start) + 1
    if kind == "apart" or len(ids) <= room:
        pieces = [start + ids[at : at + room] for at in range(0, len(ids), room)]
        return [Window(piece, len(start), len(start)) for piece in pieces]
    assert horizon is not None
    found = [Window(start + ids[:room], len(start), len(start))]
    for at in range(room, len(ids), horizon):
        end = min(at + horizon, len(ids))
        first = max(0, end - horizon - 1)  # the last token is predicted and not read
        found.append(Window(ids[first:end], 0, at - first))
    return found


def fill(rows: Sequence[list[int]]) -> tuple[Tensor, Tensor]:
    """Pad rows on the right to the longest, [B, T]; also return their lengths, [B]."""
    lengths = torch.tensor([len(row) for row in rows])
    ids = torch.zeros(len(rows), int(lengths.max()), dtype=torch.long)
    for place, row in enumerate(rows):
        ids[place, : len(row)] = torch.tensor(row)
    return ids, lengths
