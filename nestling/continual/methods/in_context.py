"""Frozen weights, and as much of what was read as fits stands before every text."""

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional

from nestling.continual.methods.method import Method
from nestling.continual.state import Reading
from nestling.models.functional import FunctionalModel


class InContext(Method):
    """The last ``kept`` tokens read are a prefix of the context; 0: the model as it was.

    A document is scored in segments, each in a context of the prefix and the document's last
    tokens, ``window`` in all with the segment.
    """

    def __init__(self, model: Any, *, kept: int, window: int, segment: int):
        if not 0 <= kept <= window - 2 * segment:
            raise ValueError("the prefix leaves no room for the document")
        self.keeps_documents = kept > 0
        self.reader = FunctionalModel(model)
        self.kept, self.window, self.segment = kept, window, segment
        self.prefix: tuple[int, ...] = ()

    def read(self, ids: Sequence[int]) -> None:
        """The end of the document takes the place of older text."""
        joined = (*self.prefix, *ids)
        self.prefix = joined[len(joined) - self.kept :] if self.kept else ()

    def end_task(self) -> None:
        """Nothing."""

    def score(self, ids: Sequence[int]) -> Reading:
        """With the prefix before it."""
        return scored(self.reader, ids, self.window, self.segment, lambda before: self.prefix)

    @property
    def updates(self) -> int:
        """None ever."""
        return 0


@torch.no_grad()
def scored(
    reader: FunctionalModel, ids: Sequence[int], window: int, segment: int, prefix
) -> Reading:
    """Losses of a document; ``prefix(before)`` is put before what is left of the window.

    ``before`` are the tokens of the document before a segment. The first token has no loss.
    """
    nats, count = 0.0, 0
    ids = tuple(ids)
    for first in range(0, len(ids), segment):
        part, before = ids[first : first + segment], ids[:first]
        head = tuple(prefix(before))
        room = max(1, window - len(head) - len(part))
        context = (*head, *before[max(0, len(before) - room) :])
        given = torch.tensor([(*context, *part)], device=reader.model.device)
        logits, _ = reader.read({}, given[:, :-1])
        places = min(len(part), given.shape[1] - 1)
        if not before:
            places = min(places, len(part) - 1)
        if places < 1:
            continue
        losses = functional.cross_entropy(
            logits[0, -places:].float(), given[0, -places:], reduction="sum"
        )
        nats += float(losses.double())
        count += places
    return Reading(tokens=len(ids), scored=count, nats=nats)
