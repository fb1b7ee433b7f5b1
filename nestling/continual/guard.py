"""The retention guard: measure a held-out text, and undo documents that harm it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nestling.continual.learner import ContinualLearner
from nestling.continual.study.record import Studied
from nestling.core.error import UserError


@dataclass(frozen=True, kw_only=True)
class Guard:
    """A held-out probe and how much its loss may rise.

    ``limit`` is a fraction of the loss at the start: 0.01 allows one per cent.
    """

    probe: tuple[str, ...]  # texts that are not learned from
    limit: float | None = None  # None: measure only

    def __post_init__(self):
        if not self.probe:
            raise UserError(
                "the guard needs a probe; give at least one text that must not be forgotten"
            )
        if self.limit is not None and not self.limit >= 0:
            raise UserError(f"max-forgetting is {self.limit}; give a fraction, 0 or more")

    def measure(self, learner: ContinualLearner, document: Studied | None = None) -> float:
        """The loss of the probe in nats per token; with ``document``, while that is used."""
        return probe_loss(learner, self.probe, document)

    def broken(self, before: float, now: float) -> bool:
        """Whether the loss has risen by more than the limit."""
        return self.limit is not None and not now <= before * (1 + self.limit)


def probe_loss(
    learner: ContinualLearner, texts: Sequence[str], document: Studied | None = None
) -> float:
    """The loss of texts in nats per token; nothing is learned from them."""
    readings = [learner.score(text, document=document) for text in texts]
    scored = sum(reading.scored for reading in readings)
    if not scored:
        raise UserError("the probe is too short; give at least two tokens")
    return sum(reading.nats for reading in readings) / scored


@dataclass(frozen=True, kw_only=True)
class Kept:
    """The guard's result for one document."""

    name: str
    probe: float  # loss of the probe after it, nats per token
    undone: bool

    def record(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {"name": self.name, "probe": self.probe, "undone": self.undone}
