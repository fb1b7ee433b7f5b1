"""What a study is: cells to be run, and what is concluded from their Results."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

from nestling.core.result import Result
from nestling.report import Section

Tell = Callable[[int, int, float], None]  # step, steps of the whole cell, loss


def silent(step: int, steps: int, loss: float) -> None:
    """A Tell that tells nobody."""


class Cell(NamedTuple):
    """One measurement of a study: ``config`` holds everything its outcome depends on."""

    name: str  # of its file; says what it is to a reader
    config: dict[str, Any]  # plain JSON values
    seed: int


class Finding(NamedTuple):
    """What a study says so far: figures for programs, sections for readers, and the answer."""

    metrics: dict[str, Any]
    sections: list[Section]
    answer: str  # one sentence: the question answered by the figures, or that they cannot


class Study(ABC):
    """A named grid. Sizes are fields of a frozen ``Config``, in one place, part of every Result."""

    name: ClassVar[str]
    question: ClassVar[str]  # one line: what is asked

    @abstractmethod
    def cells(self, done: Mapping[str, Result]) -> list[Cell]:
        """The cells known by now: a later stage may depend on what the ``done`` ones gave."""

    @abstractmethod
    def run(self, cell: Cell, *, tell: Tell = silent, device: str = "cpu") -> Result:
        """Do one cell from nothing; the same cell gives the same metrics."""

    @abstractmethod
    def find(self, done: Mapping[str, Result]) -> Finding:
        """What the finished cells say; works for any part of them, also for none."""
