"""Read documents in segments, each with the window of text before it."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from nestling.continual.state import Options, Stream
from nestling.core.error import UserError
from nestling.models.functional import FunctionalModel

SEGMENT, WINDOW = 512, 1024  # defaults, in tokens


class Cut(NamedTuple):
    """The lengths of segment and window in tokens."""

    segment: int
    window: int | None

    @property
    def overlap(self) -> int:
        """Tokens read again at the start of a new window."""
        return (self.window or 0) // 4


def cut(options: Options, periods: list[int], reader: FunctionalModel) -> Cut:
    """Segment and window for levels with these periods; unsuitable options raise UserError."""
    limit = reader.limit
    window = options.window
    if window is None and (limit is not None or reader.grows):
        window = min(WINDOW, limit or WINDOW)
    if window is not None and limit is not None and window > limit:
        raise UserError(f"window is {window}; the model takes at most {limit} tokens")
    most = min(SEGMENT, window // 2) if window else SEGMENT
    if not periods:  # nothing is written while it is read
        return Cut(options.segment or most, window)
    fast = min(periods)
    segment = options.segment or max(n for n in range(1, most + 1) if fast % n == 0)
    if fast % segment:
        raise UserError(f"segment is {segment}; give a divisor of the fastest period, {fast}")
    return Cut(segment, window)


class Piece(NamedTuple):
    """The result of one call of the model: a loss for each token with a predecessor."""

    losses: Float[Tensor, " N"]
    stream: Stream


def read_segment(
    reader: FunctionalModel,
    weights: Mapping[str, Tensor],
    stream: Stream,
    ids: tuple[int, ...],
    starts: tuple[int, ...],
    sizes: Cut,
    device: Any,
) -> Iterator[Piece]:
    """Read tokens from ``stream`` on, each document separately, and yield the losses.

    A token is predicted from the tokens before it in its window; the first of a document has no
    loss. Cached keys and values are not recomputed when weights are written. When the window is
    full, its last quarter is read again with the current weights and starts a new window.
    """
    edges = sorted({0, *starts, len(ids)})
    for begin, end in zip(edges, edges[1:], strict=False):
        part = ids[begin:end]
        if begin in starts:
            stream = stream._replace(last=None, window=(), context=None)
        first = () if stream.last is None else (stream.last,)
        inputs, targets = (*first, *part[:-1]), part if first else part[1:]
        stream = stream._replace(last=part[-1])
        while targets:
            stream = _with_room(reader, weights, stream, sizes, device)
            room = len(inputs) if sizes.window is None else sizes.window - len(stream.window)
            now, inputs = inputs[:room], inputs[room:]
            logits, context = reader.read(weights, _tensor(now, device), stream.context)
            window = stream.window + now if sizes.window is not None else ()
            stream = stream._replace(context=context, window=window)
            target = torch.tensor(targets[:room], device=device)
            targets = targets[room:]
            losses = functional.cross_entropy(logits[0].float(), target, reduction="none")
            yield Piece(losses, stream)
    yield Piece(torch.zeros(0, device=device), stream)


@torch.no_grad()
def read_alone(
    reader: FunctionalModel,
    weights: Mapping[str, Tensor],
    ids: tuple[int, ...],
    sizes: Cut,
    device: Any,
) -> Float[Tensor, " N"]:
    """The losses of a single document, without its first token, under the given weights."""
    stream, parts = Stream(), [torch.zeros(0, device=device)]
    for first in range(0, len(ids), SEGMENT):
        starts = (0,) if first == 0 else ()
        part = ids[first : first + SEGMENT]
        for piece in read_segment(reader, weights, stream, part, starts, sizes, device):
            stream = piece.stream
            parts.append(piece.losses)
    return torch.cat(parts)


class Gradients(NamedTuple):
    """The result of a segment: sums over the tokens that count."""

    stream: Stream
    sums: tuple[Tensor, ...] | None  # of the weights; None: no token counts
    nats: float
    scored: int  # tokens with a loss
    learned: int  # tokens whose gradient is in the sums


def segment_gradients(
    reader: FunctionalModel,
    weights: Mapping[str, Tensor],
    stream: Stream,
    sizes: Cut,
    surprise: float | None,
    device: Any,
) -> Gradients:
    """Read the open tokens of ``stream`` and sum the gradients of their losses.

    Tokens with a loss below ``surprise`` (nats) are left out.
    """
    ids, starts = stream.open_ids, stream.open_starts
    stream = stream._replace(tokens=stream.tokens + len(ids), open_ids=(), open_starts=())
    values, sums = list(weights.values()), None
    nats, scored, learned = 0.0, 0, 0
    for piece in read_segment(reader, weights, stream, ids, starts, sizes, device):
        stream, losses = piece.stream, piece.losses
        nats += float(losses.detach().double().sum())
        scored += len(losses)
        chosen = losses if surprise is None else losses[losses.detach() >= surprise]
        if len(chosen):
            parts = torch.autograd.grad(chosen.sum(), values)
            sums = parts if sums is None else tuple(map(torch.add, sums, parts))
            learned += len(chosen)
    return Gradients(stream, sums, nats, scored, learned)


def _with_room(
    reader: FunctionalModel, weights: Mapping[str, Tensor], stream: Stream, sizes: Cut, device: Any
) -> Stream:
    """The stream with room in its window: a full one is replaced by one with its last quarter."""
    if sizes.window is None or len(stream.window) < sizes.window:
        return stream
    kept = stream.window[len(stream.window) - sizes.overlap :]
    context = None
    if kept:
        with torch.no_grad():
            _, context = reader.read(weights, _tensor(kept, device), None)
    return stream._replace(window=kept, context=context)


def _tensor(ids: tuple[int, ...], device: Any) -> Tensor:
    return torch.tensor([ids], device=device)
