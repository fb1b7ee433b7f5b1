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


def lm(
    reader: Reader,
    texts: Sequence[str],
    *,
    batch_size: int = 4,
    kind: str = "rolling",
    tell: Tell = silent,
) -> dict[str, Any]:
    """The figures of a model on documents, each read from a fresh memory, from its first token.

    With ``L`` the sum of -ln p over the tokens of all documents: ``loss = L / tokens`` (nats),
    ``perplexity = e^loss``, ``word_perplexity = e^(L / words)``, ``byte_perplexity =
    e^(L / bytes)``, ``bits_per_byte = L / (bytes ln 2)``; the last three do not depend on how a
    tokenizer cuts the text. ``by_position`` has the loss of stretches that widen with the tokens
    of the text that were read before. ``kind`` says how a document longer than the model reads is
    cut (``windows``). ``tell`` counts the tokens that are read.

    Source: word, byte and bit figures as lm-eval defines them for ``loglikelihood_rolling``, with
    one memory along the whole document instead of windows where the model can read it whole.
    """
    if batch_size < 1:
        raise UserError(f"{batch_size} documents side by side; give at least 1")
    rows = [one for text in texts for one in windows(reader, reader.encode(text), kind)]
    if not rows:
        raise UserError("there is no text to measure on; name another corpus or file")
    rows.sort(key=lambda window: len(window.ids))  # so that little is filled up
    every = sum(len(window.ids) - window.begin for window in rows)
    borders = torch.tensor(edges(LIMIT))
    sums = torch.zeros(len(borders) - 1, dtype=torch.float64)
    counts = torch.zeros(len(borders) - 1, dtype=torch.long)
    for at in range(0, len(rows), batch_size):
        part = rows[at : at + batch_size]
        ids, lengths = fill([window.ids for window in part])
        lead = torch.tensor([[window.lead] for window in part])
        begin = torch.tensor([[window.begin] for window in part])
        place = 1  # of the first token with a loss
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
