"""BABILong: the facts of a bAbI story, one by one in a long text of real prose."""

from dataclasses import dataclass
from functools import cached_property
from random import Random
from typing import ClassVar

from nestling.core.error import UserError
from nestling.tasks.babi import GIVERS, ROOMS, STORIES, THINGS
from nestling.tasks.haystack import PROSE, Haystack, fitted, insert
from nestling.tasks.task import Answer, Question, QuestionTask
from nestling.tasks.words import made_prose

PROMPT = "{told}\n\n{context}\n\nQuestion: {question}\nAnswer:"
WHERE = (
    "The text below tells, among other things, where people went and what they carried with them. "
    "Answer with the name of the room."
)


class Babilong(QuestionTask):
    """A story's facts at drawn places, in order, between the sentences of a corpus.

    The answer is one word. It is right if the first sentence generated names it and no other
    answer of the task that the question does not name, as published.

    Deviates: stories are made here after the rules of bAbI, so none is from the published files;
    the prose is a corpus instead of PG-19; the instruction has no examples.
    """

    kind = "generate"
    made_of = PROSE
    match = "only"
    source = "BABILong, arXiv 2406.10149; bAbI, arXiv 1502.05698"
    changes = {"length": (16_384, 65_536, 262_144, 1_048_576)}
    new_tokens = 16
    stop = ("\n",)
    story: ClassVar[int]  # the number of the bAbI task
    told: ClassVar[str] = WHERE
    labels: ClassVar[tuple[str, ...]] = ROOMS

    @dataclass(frozen=True, kw_only=True)
    class Config(QuestionTask.Config):
        """How long the text is."""

        length: int = 4096  # of the prompt, in units of ``count``
        begin: float = 0.0  # share of the prose before the first place of a fact
        end: float = 1.0  # share of the prose before the last place of a fact

        def __post_init__(self) -> None:
            if self.length < 1 or not 0 <= self.begin <= self.end <= 1:
                raise UserError("length must be at least 1, and 0 <= begin <= end <= 1")

    @classmethod
    def tiny(cls) -> "Babilong":
        """Facts with little or nothing between."""
        return cls(cls.Config(length=6000), material=made_prose())

    @cached_property
    def prose(self) -> Haystack:
        """Where the other sentences come from."""
        return Haystack(lambda: self.material)

    def question(self, rng: Random, *, unseen: bool) -> Question:
        """A story whose facts fit, hidden."""
        config = self.config

        def prompt(others: list[str]) -> str:
            context = " ".join(insert(story.facts, others, places))
            return PROMPT.format(told=self.told, context=context, question=story.question)

        while True:
            story = STORIES[self.story](rng)
            places = [
                config.begin + rng.random() * (config.end - config.begin) for _ in story.facts
            ]
            if len(story.facts) <= 4 or self.count(prompt([])) <= config.length:
                break
        choices = tuple(one for one in self.labels if one not in story.question)
        others = self.prose.read(rng, unseen=unseen)
        return Question(fitted(prompt, others, config.length, self.count), (story.answer,), choices)

    def blind(self, rng: Random, question: Question) -> Answer:
        """Of what the question does not name: a person where it asks who, else a room or thing."""
        who = question.prompt.rpartition("Question: ")[2].startswith("Who")
        return rng.choice([one for one in question.choices if (one in GIVERS) == who])


class Babilong1(Babilong):
    """BABILong 1, one supporting fact: where is a person who went about?"""

    story = 1

    @property
    def chance(self) -> float:
        """One of six rooms."""
        return 1 / 6


class Babilong2(Babilong):
    """BABILong 2, two supporting facts: where is a thing that was carried about?"""

    story = 2

    @property
    def chance(self) -> float:
        """One of six rooms."""
        return 1 / 6


class Babilong3(Babilong):
    """BABILong 3, three supporting facts: where was a thing before?"""

    story = 3

    @property
    def chance(self) -> float:
        """One of the five rooms that the question does not name."""
        return 1 / 5


class Babilong4(Babilong):
    """BABILong 4, two arguments: which room lies on that side of another?"""

    story = 4
    told = (
        "The text below tells, among other things, how rooms lie to each other. "
        "Answer with the name of the room."
    )

    @property
    def chance(self) -> float:
        """One of the five rooms that the question does not name."""
        return 1 / 5


class Babilong5(Babilong):
    """BABILong 5, three arguments: who gave what to whom?"""

    story = 5
    told = (
        "The text below tells, among other things, who gave things to whom. "
        "Answer with the name of the person or thing, for the last time it happened."
    )
    labels = GIVERS + THINGS

    @property
    def chance(self) -> float:
        """One of three or of four, by the form of the question."""
        return (3 / 3 + 2 / 4) / 5
