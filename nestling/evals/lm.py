"""Perplexity of a text: for each token, word and byte, and by the place in the document."""

import math
import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from nestling.core.error import UserError
from nestling.evals.progress import Tell, silent
from nestling.evals.reader import Reader
from nestling.train.evaluate import edges, perplexity

LIMIT = 2**20  # tokens; where the last stretch of the figures by position begins at the latest


def words_of(text: str) -> int:
    """Words of a text, as lm-eval counts them: pieces between white space."""
    return len(re.split(r"\s+", text))


def choose(texts: Sequence[str], size: int | None) -> list[str]:
    """Whole documents in a fixed random order, until they hold ``size`` bytes; None: all.

    The choice is by bytes, so that models of any tokenizer read the same text.
    """
    order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(0)).tolist()
    chosen, total = [], 0
    for index in order:
        if size is not None and total >= size:
            break
        if texts[index]:
            chosen.append(texts[index])
            total += len(texts[index].encode())
    if not chosen:
        raise UserError("there is no text to measure on; name another corpus or file")
    return chosen


def windows(reader: Reader, ids: list[int]) -> list[list[int]]:
    """The pieces in which a model reads a document, each after the start of a text.

    One piece where the model reads any length, else as few as its horizon allows.
    """
    start = reader.start
    room = len(ids) if reader.horizon is None else reader.horizon - len(start) + 1
    return [start + ids[at : at + room] for at in range(0, len(ids), room)]


def lm(
    reader: Reader, texts: Sequence[str], *, batch_size: int = 4, tell: Tell = silent
) -> dict[str, Any]:
    """The figures of a model on documents, each read from a fresh memory, from its first token.

    With ``L`` the sum of -ln p over the tokens of all documents: ``loss = L / tokens`` (nats),
    ``perplexity = e^loss``, ``word_perplexity = e^(L / words)``, ``byte_perplexity =
    e^(L / bytes)``, ``bits_per_byte = L / (bytes ln 2)``; the last three do not depend on how a
    tokenizer cuts the text. ``by_position`` has the loss of stretches that widen with the tokens
    read since the start of the document. ``tell`` counts the tokens that are read.

    Source: word, byte and bit figures as lm-eval defines them for ``loglikelihood_rolling``, with
    one memory along the whole document instead of windows where the model can read it whole.
    """
    if batch_size < 1:
        raise UserError(f"{batch_size} documents side by side; give at least 1")
    rows = [piece for text in texts for piece in windows(reader, reader.encode(text))]
    rows.sort(key=len)  # so that little is filled up
    borders = torch.tensor(edges(LIMIT))
    sums = torch.zeros(len(borders) - 1, dtype=torch.float64)
    counts = torch.zeros(len(borders) - 1, dtype=torch.long)
    lead = len(reader.start)
    for at in range(0, len(rows), batch_size):
        ids, lengths = filled(rows[at : at + batch_size])
        place = 1  # of the first token with a loss
        for losses in reader.losses(ids):
            where = torch.arange(place, place + losses.shape[1]).expand_as(losses)
            scored = (where >= lead) & (where < lengths[:, None])
            bucket = torch.bucketize((where - lead)[scored], borders[1:-1], right=True)
            sums.index_add_(0, bucket, losses.double()[scored])
            counts.index_add_(0, bucket, torch.ones_like(bucket))
            place += losses.shape[1]
            tell(int(counts.sum()), sum(map(len, rows)) - lead * len(rows))
    words, size = sum(map(words_of, texts)), sum(len(text.encode()) for text in texts)
    total, tokens = float(sums.sum()), int(counts.sum())
    return {
        "documents": len(texts),
        "tokens": tokens,
        "words": words,
        "bytes": size,
        "loss": total / tokens,
        "perplexity": perplexity(total / tokens),
        "word_perplexity": perplexity(total / words),
        "byte_perplexity": perplexity(total / size),
        "bits_per_byte": total / size / math.log(2),
        "horizon": reader.horizon,
        "by_position": [
            {
                "start": int(borders[i]),
                "end": int(borders[i + 1]),
                "loss": float(sums[i] / counts[i]),
                "tokens": int(counts[i]),
            }
            for i in range(len(sums))
            if counts[i]
        ],
    }


def filled(rows: Sequence[list[int]]) -> tuple[Tensor, Tensor]:
    """Rows filled up at their ends to the longest, [B, T], and their lengths, [B]."""
    lengths = torch.tensor([len(row) for row in rows])
    ids = torch.zeros(len(rows), int(lengths.max()), dtype=torch.long)
    for place, row in enumerate(rows):
        ids[place, : len(row)] = torch.tensor(row)
    return ids, lengths
