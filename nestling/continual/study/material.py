"""The study material of a passage: questions, their answers, and their makers."""

from abc import ABC, abstractmethod
from typing import NamedTuple

from nestling.continual.study.passages import Passage
from nestling.continual.study.related import Related
from nestling.continual.study.speaker import Speaker
from nestling.continual.text import Text


class Question(NamedTuple):
    """A question about a passage."""

    question: str
    answer: str  # a few words of the passage; "" if there is only the reply
    reply: str  # a whole sentence, for chat
    maker: str  # a name of nestling.continual.study.makers.MAKERS
    sentence: int  # index in the passage of the first sentence that answers it
    sure: float = 0.0  # log-likelihood of question and answer after the passage, nats per token
    held: bool = False  # whether it is held out: asked, but never studied


class Place(NamedTuple):
    """The input of a maker."""

    passage: Passage
    speaker: Speaker  # the frozen model
    text: Text
    seed: str  # seed of random draws
    related: Related


class Maker(ABC):
    """Makes questions about a passage; the same place gives the same questions.

    ``natural``: a user might ask its questions that have an answer. These are judged, some are held
    out, and they are used in examinations; all others are only studied.
    """

    natural = True

    @abstractmethod
    def make(self, place: Place) -> list[Question]:
        """Questions, best first; there may be none."""
