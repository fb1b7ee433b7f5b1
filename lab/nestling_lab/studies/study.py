"""The base class of studies: cells to run, and conclusions from their Results."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

from nestling.core.result import Result
from nestling.report import Section

Tell = Callable[[int, int, float], None]  # (step, steps of the cell, loss)


def silent(step: int, steps: int, loss: float) -> None:
    """A Tell that does nothing."""


class Cell(NamedTuple):
    """One measurement of a study; its outcome depends only on ``config``."""

    name: str  # of its file; readable
    config: dict[str, Any]  # plain JSON values
    seed: int


class Finding(NamedTuple):
    """The findings so far: figures for programs, and a page that opens with the answer."""

    metrics: dict[str, Any]
    sections: list[Section]
    answer: str  # one sentence that answers the question, or says that it is open
    shown: Section = Section("In short")  # tables right below the answer, and how to read them


class Study(ABC):
    """A named grid of cells. All sizes are fields of a frozen ``Config``, part of every Result."""

    name: ClassVar[str]
    question: ClassVar[str]  # the question of the study, in one line

    @abstractmethod
    def cells(self, done: Mapping[str, Result]) -> list[Cell]:
        """The cells known so far; later stages may depend on the Results in ``done``."""

    @abstractmethod
    def run(self, cell: Cell, *, tell: Tell = silent, device: str = "cpu") -> Result:
        """Run one cell from scratch; the same cell gives the same metrics."""

    @abstractmethod
    def find(self, done: Mapping[str, Result]) -> Finding:
        """The findings from the finished cells, for any subset of them, including none."""
