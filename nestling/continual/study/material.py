"""What is studied about a passage: questions, their answers, and who made them."""

from abc import ABC, abstractmethod
from typing import NamedTuple

from nestling.continual.study.passages import Passage
from nestling.continual.study.related import Related
from nestling.continual.study.speaker import Speaker
from nestling.continual.text import Text


class Question(NamedTuple):
    """A question about a passage."""

    question: str
    answer: str  # a few words of the passage; "": the reply is all there is
    reply: str  # a whole sentence, for whoever talks
    maker: str  # a name of nestling.continual.study.makers.MAKERS
    sentence: int  # of the passage, the first that answers it
    sure: float = 0.0  # nats a token: how likely question and answer are with the passage read
    held: bool = False  # it is asked, but never studied


class Place(NamedTuple):
    """What a maker may use."""

    passage: Passage
    speaker: Speaker  # the frozen model
    text: Text
    seed: str  # draws are made from it
    related: Related


class Maker(ABC):
    """Makes questions about a passage; the same place gives the same ones.

    ``natural``: those with an answer are such as somebody would ask. They are judged, some are held
    out, and they are asked in the end; the others are only studied.
    """

    natural = True

    @abstractmethod
    def make(self, place: Place) -> list[Question]:
        """Questions, best first; there may be none."""
