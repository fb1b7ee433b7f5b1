"""The windows in which a model reads a document that is longer than it can read."""

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
    lead: int  # tokens at the beginning that are not of the text
    begin: int  # the first whose prediction counts


def windows(reader: Reader, ids: list[int], kind: str = "rolling") -> list[Window]:
    """The windows of a document, in which every token is predicted once; of none no window.

    One window where the model reads any length. Else, as many as it can read at once,

    ``rolling``: the first after the start of a text, every other after the last token of the one
    before; the last reads as far back as the model can and counts only what is left. So lm-eval
    does (``loglikelihood_rolling``), and so the papers' perplexities are made;
    ``apart``: each after the start of a text, as if it were one: a little worse at its beginning.

    Deviates from lm-eval: a beginning that the tokenizer itself puts before a text is read and not
    counted; lm-eval counts it as a token that its own prefix has to predict.
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
    """Rows filled up at their ends to the longest, [B, T], and their lengths, [B]."""
    lengths = torch.tensor([len(row) for row in rows])
    ids = torch.zeros(len(rows), int(lengths.max()), dtype=torch.long)
    for place, row in enumerate(rows):
        ids[place, : len(row)] = torch.tensor(row)
    return ids, lengths
