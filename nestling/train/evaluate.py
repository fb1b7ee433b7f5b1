"""Perplexity on held-out text, in total and by position in the document."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nestling.data import IGNORED, Batch, Documents, evaluation_batches, positions
from nestling.models.hf import HopeForCausalLM
from nestling.train.ranks import ALONE, Ranks
from nestling.train.step import precision, read_batch, token_losses


@dataclass(frozen=True, kw_only=True)
class Bucket:
    """The figures of the positions from ``start`` up to, not including, ``end`` in a document."""

    start: int  # tokens since the start of the document
    end: int  # tokens
    loss: float  # nats per token
    tokens: int  # labelled positions in the bucket

    @property
    def perplexity(self) -> float:
        """exp(loss)."""
        return perplexity(self.loss)


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Held-out figures: the mean over all labelled positions, and by position."""

    loss: float  # nats per token
    perplexity: float
    tokens: int  # labelled positions
    by_position: tuple[Bucket, ...]  # non-empty buckets in the order of positions


def perplexity(loss: float | int) -> float:
    """exp(loss) for a loss in nats; infinite if too large for a float.

    >>> perplexity(0.0), perplexity(1e6)
    (1.0, inf)
    """
    return math.exp(loss) if not loss > 709 else math.inf


def edges(limit: int, first: int = 16, ratio: float | int = 2.0) -> list[int]:
    """Edges of buckets that grow with the position, up to at least ``limit`` tokens.

    >>> edges(100)
    [0, 16, 32, 64, 128]
    """
    borders = [0, first]
    while borders[-1] < limit:
        borders.append(max(borders[-1] + 1, round(borders[-1] * ratio)))
    return borders


def held_out_batches(
    documents: Documents,
    *,
    batch_size: int,
    sequence_length: int,
    align: int = 1,
    max_tokens: int | None = None,
) -> Iterator[Batch]:
    """Batches over a fixed random choice of whole documents with at least ``max_tokens`` targets.

    The choice depends only on the documents and ``max_tokens``, so all models are measured on the
    same text. None takes all documents.
    """
    order = torch.randperm(len(documents), generator=torch.Generator().manual_seed(0)).tolist()
    lengths, chosen, total = documents.lengths(), [], 0
    for index in order:
        if max_tokens is not None and total >= max_tokens:
            break
        chosen.append(index)
        total += lengths[index]
    return evaluation_batches(
        select(documents, chosen),
        batch_size=batch_size,
        sequence_length=sequence_length,
        align=align,
    )


def select(documents: Documents, indices: Sequence[int]) -> Documents:
    """The documents at these indices, in that order."""
    bounds = documents.bounds.tolist()
    pieces = [documents.ids[bounds[i] : bounds[i + 1]] for i in indices]
    lengths = torch.tensor([0, *(len(piece) for piece in pieces)])
    return Documents(
        ids=torch.cat(pieces) if pieces else documents.ids[:0],
        bounds=lengths.cumsum(0),
        pad_id=documents.pad_id,
    )


def evaluate(
    model: HopeForCausalLM,
    batches: Iterable[Any],
    *,
    limit: int = 4096,
    carry: bool = True,
    dtype: str = "float32",
    ranks: Ranks = ALONE,
) -> Evaluation:
    """The mean loss over ``batches``; with ``carry`` the memory of a row continues between them.

    ``batches`` are data batches (with shifted labels) of one size. All positions beyond ``limit``
    (tokens) go into the last bucket. Without ``carry`` every batch is read with an empty memory,
    but positions still count from the start of the document. With ``ranks`` each process reads its
    part, and all return the figures of the whole.
    """
    borders = torch.tensor(edges(limit))
    sums = torch.zeros(len(borders) - 1, dtype=torch.float64)
    counts = torch.zeros(len(borders) - 1, dtype=torch.long)
    cache, before, chain = None, None, ranks.chain(model)
    was_training = model.training
    model.eval()
    with torch.no_grad():
        for batch in batches:
            own = ranks.share(batch)
            with precision(model.device, dtype), chain.reading():
                logits, after = read_batch(model, own, cache)
            cache = chain.carried(after, batch.mask) if carry else None
            losses = token_losses(logits, own.labels).double().cpu()
            where, before = positions(batch, before)
            scored = own.labels != IGNORED
            bucket = torch.bucketize(ranks.part(where)[scored], borders[1:-1], right=True)
            sums.index_add_(0, bucket, losses[scored])
            counts.index_add_(0, bucket, torch.ones_like(bucket))
    model.train(was_training)
    return _evaluation(borders.tolist(), ranks.total(sums), ranks.total(counts).long())


def _evaluation(borders: list[int], sums: Tensor, counts: Tensor) -> Evaluation:
    total = int(counts.sum())
    loss = float(sums.sum()) / total if total else math.nan
    means = (sums / counts).tolist()
    return Evaluation(
        loss=loss,
        perplexity=perplexity(loss),
        tokens=total,
        by_position=tuple(
            Bucket(start=borders[i], end=borders[i + 1], loss=means[i], tokens=int(counts[i]))
            for i in range(len(means))
            if counts[i]
        ),
    )
