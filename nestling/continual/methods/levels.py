"""The levels of a continuum memory system, written as the stream goes by."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from nestling.continual.learner import ContinualLearner
from nestling.continual.methods.method import Gateable
from nestling.continual.state import Reading


class Levels(Gateable):
    """A ContinualLearner: every level is written at its period, nothing is told of tasks.

    With ``finishing`` all are written at the end of a document too, and their periods start anew:
    then all of it is learned before the next.
    """

    def __init__(self, learner: ContinualLearner, *, finishing: bool = False):
        self.keeps_documents = False
        self.learner = learner
        self.finishing = finishing
        self._updates = 0

    def read(self, ids: Sequence[int]) -> None:
        """Read and write the levels that are due."""
        reading = self.learner.read_tokens(ids)
        if self.finishing:
            reading += self.learner.finish()
        self._updates += max(reading.writes)

    def end_task(self) -> None:
        """Nothing: levels know no tasks."""

    def score(self, ids: Sequence[int]) -> Reading:
        """With the levels as they are now."""
        return self.learner.score(ids)

    def losses(self, ids: Sequence[int]) -> Float[Tensor, "K N"]:
        """With none of the levels, the slowest alone, ..., all of them as they are now."""
        return self.learner.losses(ids, "levels")

    @property
    def updates(self) -> int:
        """Writes of the level that is written most often."""
        return self._updates
