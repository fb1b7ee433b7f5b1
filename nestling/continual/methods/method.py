"""The interface of every method of continual learning."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from nestling.continual.state import Reading


class Method(ABC):
    """Reads documents one after the other, task after task, and can be evaluated at any time."""

    keeps_documents: bool  # whether text that was read is stored as text

    @abstractmethod
    def read(self, ids: Sequence[int]) -> None:
        """Read one document, given as token ids."""

    @abstractmethod
    def end_task(self) -> None:
        """Called when all documents of a task have been read."""

    @abstractmethod
    def score(self, ids: Sequence[int]) -> Reading:
        """The losses of a document by itself, with nothing learned from it."""

    @property
    @abstractmethod
    def updates(self) -> int:
        """The number of weight updates so far."""


class Gateable(Method):
    """A method whose original model can be mixed with the current one."""

    @abstractmethod
    def losses(self, ids: Sequence[int]) -> Float[Tensor, "K N"]:
        """The losses of each expert: first the model before anything was read, last the current
        one, which ``score`` uses (``nestling.continual.gate``)."""
