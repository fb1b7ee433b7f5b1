"""What every way to go on learning has in common."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from nestling.continual.state import Reading


class Method(ABC):
    """Takes in documents one after the other, task after task, and can be asked at any time."""

    keeps_documents: bool  # whether text that was read is stored as text

    @abstractmethod
    def read(self, ids: Sequence[int]) -> None:
        """Take in one document, given as token ids."""

    @abstractmethod
    def end_task(self) -> None:
        """The documents of a task have all been read; those of another follow."""

    @abstractmethod
    def score(self, ids: Sequence[int]) -> Reading:
        """The losses of a document by itself, with nothing learned from it."""

    @property
    @abstractmethod
    def updates(self) -> int:
        """Writes of weights so far."""
