"""Frozen weights and a store of everything read: similar passages precede each text."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from nestling.continual.methods.in_context import scored
from nestling.continual.methods.method import Method
from nestling.continual.state import Reading
from nestling.models.functional import FunctionalModel

K1, B = 1.5, 0.75  # of BM25


class Retrieval(Method):
    """Every document is stored in passages; the nearest by BM25 come before each segment.

    The query is the previous segment; a document's first segment has none, and no passages.
    Retrieves ``found`` passages of ``passage`` tokens, each with the passage that followed it.

    Source: BM25 as in Robertson and Zaragoza, 2009, over token ids.
    """

    def __init__(self, model: Any, *, window: int, segment: int, passage: int = 64, found: int = 1):
        self.keeps_documents = True
        self.reader = FunctionalModel(model)
        self.window, self.segment, self.passage, self.found = window, segment, passage, found
        if 2 * passage * found > window - 2 * segment:
            raise ValueError("the passages leave no room for the document")
        self.passages: list[tuple[int, ...]] = []
        self.follows: list[bool] = []  # whether the next passage is of the same document
        self._where: dict[int, dict[int, int]] = {}  # token -> passage -> times
        self._length = 0

    def read(self, ids: Sequence[int]) -> None:
        """Store the document."""
        parts = [tuple(ids[i : i + self.passage]) for i in range(0, len(ids), self.passage)]
        for place, part in enumerate(parts):
            number = len(self.passages)
            self.passages.append(part)
            self.follows.append(place + 1 < len(parts))
            self._length += len(part)
            for token, times in Counter(part).items():
                self._where.setdefault(token, {})[number] = times

    def nearest(self, question: Sequence[int]) -> list[int]:
        """The indices of the best matching passages, best first."""
        if not self.passages:
            return []
        mean, total = self._length / len(self.passages), len(self.passages)
        scores: dict[int, float] = {}
        for token in sorted(set(question)):
            holders = self._where.get(token, {})
            rare = math.log(1 + (total - len(holders) + 0.5) / (len(holders) + 0.5))
            for number, times in holders.items():
                norm = K1 * (1 - B + B * len(self.passages[number]) / mean)
                gain = rare * times * (K1 + 1) / (times + norm)
                scores[number] = scores.get(number, 0.0) + gain
        ranked = sorted(scores.items(), key=lambda item: (-item[1], item[0]))
        return [number for number, _ in ranked[: self.found]]

    def prefix(self, before: Sequence[int]) -> tuple[int, ...]:
        """The passages to put before a segment that follows these tokens."""
        if not before:
            return ()
        prefix: tuple[int, ...] = ()
        for number in reversed(self.nearest(before[-self.segment :])):
            after = self.passages[number + 1] if self.follows[number] else ()
            prefix += (*self.passages[number], *after)
        return prefix

    def end_task(self) -> None:
        """Do nothing."""

    def score(self, ids: Sequence[int]) -> Reading:
        """With the nearest passages before every segment except the first."""
        return scored(self.reader, ids, self.window, self.segment, self.prefix)

    @property
    def updates(self) -> int:
        """Always 0."""
        return 0
