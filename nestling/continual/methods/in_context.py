"""Frozen weights; every text is preceded by as much of what was read as fits."""

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional

from nestling.continual.methods.method import Method
from nestling.continual.state import Reading
from nestling.models.functional import FunctionalModel


class InContext(Method):
    """Puts the last ``kept`` tokens read before the context; 0: the unchanged model.

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
        """Replace older text with the end of the document."""
        joined = (*self.prefix, *ids)
        self.prefix = joined[len(joined) - self.kept :] if self.kept else ()

    def end_task(self) -> None:
        """Do nothing."""

    def score(self, ids: Sequence[int]) -> Reading:
        """With the prefix before the text."""
        return scored(self.reader, ids, self.window, self.segment, lambda before: self.prefix)

    @property
    def updates(self) -> int:
        """Always 0."""
        return 0


@torch.no_grad()
def scored(
    reader: FunctionalModel, ids: Sequence[int], window: int, segment: int, prefix
) -> Reading:
    """The losses of a document; ``prefix(before)`` precedes what is left of the window.

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
