"""The levels of a continuum memory system, written as the stream is read."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from nestling.continual.learner import ContinualLearner
from nestling.continual.methods.method import Gateable
from nestling.continual.state import Reading


class Levels(Gateable):
    """A ContinualLearner: every level is written at its period; tasks play no part.

    With ``finishing``, all levels are also written at the end of a document and their periods start
    over, so that all of it is learned before the next.
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
        """Do nothing: levels do not depend on tasks."""

    def score(self, ids: Sequence[int]) -> Reading:
        """With the current levels."""
        return self.learner.score(ids)

    def losses(self, ids: Sequence[int]) -> Float[Tensor, "K N"]:
        """With none of the levels, the slowest alone, ..., all of them."""
        return self.learner.losses(ids, "levels")

    @property
    def updates(self) -> int:
        """The number of writes of the fastest level."""
        return self._updates
