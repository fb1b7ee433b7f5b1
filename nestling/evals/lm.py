"""The perplexity of a text: per token, word and byte, and by position in the document."""

import math
import re
from collections.abc import Sequence
from typing import Any

import torch

from nestling.core.error import UserError
from nestling.evals.progress import Tell, silent
from nestling.evals.reader import Reader
from nestling.evals.windows import fill, windows
from nestling.train.evaluate import edges, perplexity

LIMIT = 2**20  # tokens; the last range of the figures by position starts here at the latest


def words_of(text: str) -> int:
    """The number of words in a text, as counted by lm-eval: pieces between whitespace."""
    return len(re.split(r"\s+", text))


def choose(texts: Sequence[str], size: int | None) -> list[str]:
    """Choose whole documents in a fixed random order, up to ``size`` bytes; None: all.

    The limit is in bytes, so that models with different tokenizers read the same text.
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
        raise UserError("there is no text to measure on; give another corpus or file")
    return chosen


def lm(
    reader: Reader,
    texts: Sequence[str],
    *,
    batch_size: int = 4,
    kind: str = "rolling",
    tell: Tell = silent,
) -> dict[str, Any]:
    """The figures of a model on documents, each read with an empty memory, from its first token.

    With ``L`` the sum of -ln p over the tokens of all documents: ``loss = L / tokens`` (nats),
    ``perplexity = e^loss``, ``word_perplexity = e^(L / words)``, ``byte_perplexity =
    e^(L / bytes)``, ``bits_per_byte = L / (bytes ln 2)``; the last three do not depend on the
    tokenizer. ``by_position`` is the loss by the number of tokens read before, in ranges of growing
    length. ``kind`` is how to cut documents longer than the model can read (see ``windows``).
    ``tell`` is called with the number of tokens read.

    Source: word, byte and bit figures as in ``loglikelihood_rolling`` of lm-eval, but with one
    memory along the whole document instead of windows if the model can read it whole.
    """
    if batch_size < 1:
        raise UserError(f"batch_size is {batch_size}; give at least 1 document")
    rows = [one for text in texts for one in windows(reader, reader.encode(text), kind)]
    if not rows:
        raise UserError("there is no text to measure on; give another corpus or file")
    rows.sort(key=lambda window: len(window.ids))  # so that there is little padding
    every = sum(len(window.ids) - window.begin for window in rows)
    borders = torch.tensor(edges(LIMIT))
    sums = torch.zeros(len(borders) - 1, dtype=torch.float64)
    counts = torch.zeros(len(borders) - 1, dtype=torch.long)
    for at in range(0, len(rows), batch_size):
        part = rows[at : at + batch_size]
        ids, lengths = fill([window.ids for window in part])
        lead = torch.tensor([[window.lead] for window in part])
        begin = torch.tensor([[window.begin] for window in part])
        place = 1  # the first token with a loss
        for losses in reader.losses(ids):
            where = torch.arange(place, place + losses.shape[1]).expand_as(losses)
            scored = (where >= begin) & (where < lengths[:, None])
            bucket = torch.bucketize((where - lead)[scored], borders[1:-1], right=True)
            sums.index_add_(0, bucket, losses.double()[scored])
            counts.index_add_(0, bucket, torch.ones_like(bucket))
            place += losses.shape[1]
            tell(int(counts.sum()), every)
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
        "windows": None if reader.horizon is None else kind,
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
