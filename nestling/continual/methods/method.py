"""What every way to go on learning has in common."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

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


class Gateable(Method):
    """A method whose model before it read anything can speak beside the model of now."""

    @abstractmethod
    def losses(self, ids: Sequence[int]) -> Float[Tensor, "K N"]:
        """As ``score`` has them, of each expert: the model before anything was read comes first,
        that of now, which ``score`` gives, comes last (``nestling.continual.gate``)."""
