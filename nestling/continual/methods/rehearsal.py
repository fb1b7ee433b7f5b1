"""Rehearsal: store text that was read, and replay some of it beside the new."""

from collections.abc import Iterable

import torch

Segment = tuple[int, ...]


class Rehearsal:
    """Keeps ``capacity`` segments of all that were read, with equal probability (reservoir
    sampling).

    ``before`` are segments of text the model knew before. ``draw`` gives ``count`` of them.
    """

    def __init__(
        self, capacity: int, *, count: int = 1, seed: int = 0, before: Iterable[Segment] = ()
    ):
        self.capacity = capacity
        self.count = count
        self.segments: list[Segment] = []
        self.seen = 0
        self._generator = torch.Generator().manual_seed(seed)
        for segment in before:
            self.store(segment)

    def _below(self, bound: int) -> int:
        return int(torch.randint(bound, (1,), generator=self._generator))

    def store(self, segment: Segment) -> None:
        """Store one segment, perhaps replacing another."""
        self.seen += 1
        if len(self.segments) < self.capacity:
            self.segments.append(segment)
            return
        place = self._below(self.seen)
        if place < self.capacity:
            self.segments[place] = segment

    def draw(self) -> list[Segment]:
        """Segments to replay; none while nothing is stored."""
        if not self.segments:
            return []
        return [self.segments[self._below(len(self.segments))] for _ in range(self.count)]
