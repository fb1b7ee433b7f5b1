"""Ten short texts with invented facts, and questions about each in other words."""

import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from random import Random
from typing import NamedTuple

from nestling.tasks.task import Answer, Question, Stage, StageTask

PROMPT = "Question: {ask}\nAnswer:"


class Asked(NamedTuple):
    """A question with a known answer."""

    ask: str
    accept: tuple[str, ...]  # all of these are right; the first is the wording of the text
    others: tuple[str, ...]  # wrong answers of the same kind, as choices and to judge replies

    @property
    def choices(self) -> tuple[str, ...]:
        """The right answer and the wrong ones, sorted, so that the position tells nothing."""
        return tuple(sorted((self.accept[0], *self.others)))

    def right(self, reply: str) -> bool:
        """Whether the first of all possible answers that the reply names is a right one.

        >>> asked = Asked("What is it washed with?", ("rice vinegar", "vinegar"), ("alcohol",))
        >>> asked.right("With vinegar, never alcohol."), asked.right("Alcohol, or vinegar.")
        (True, False)
        """
        found, wrong = first_mention(reply, self.accept), first_mention(reply, self.others)
        return found is not None and (wrong is None or found < wrong)


class Correction(NamedTuple):
    """A later text that corrects an earlier one."""

    text: str
    questions: tuple[Asked, ...]  # ``others``: the old values; empty if unchanged


class Manual(NamedTuple):
    """A text, the questions about it, and a later correction."""

    name: str
    kind: str  # what sort of text it is
    subject: str
    tuning: bool  # whether methods may be developed on it; the others are only for measuring
    text: str
    questions: tuple[Asked, ...]
    unanswerable: tuple[str, ...]  # questions that the text does not answer
    correction: Correction | None

    @property
    def values(self) -> tuple[str, ...]:
        """All accepted answers to any question about the text."""
        of = self.questions + (self.correction.questions if self.correction else ())
        return tuple(dict.fromkeys(value for asked in of for value in asked.accept))

    def learned_value(self, reply: str) -> bool:
        """Whether a reply to an unanswerable question names a value of the text."""
        return first_mention(reply, self.values) is not None


def first_mention(text: str, values: Sequence[str]) -> int | None:
    """The position of the first mention of any of the values in a text, or None.

    A value must start at the start of a word, and a value that ends in a digit must end there.

    >>> first_mention("It takes 192 degrees", ["92", "19"]), first_mention("Hops.", ["hop"])
    (None, 0)
    """
    places = []
    for value in values:
        end = r"(?!\w|[.,:]\d)" if value[-1].isdigit() else ""
        found = re.search(rf"(?<!\w)(?<!\d[.,:]){re.escape(value)}{end}", text, re.IGNORECASE)
        places += [found.start()] if found else []
    return min(places, default=None)


@cache
def manuals() -> tuple[Manual, ...]:
    """All texts, those for development first."""
    folder = files("nestling.tasks.manuals") / "texts"
    found = [
        _parse(path.name.removesuffix(".toml"), path.read_text("utf-8"))
        for path in folder.iterdir()
        if path.name.endswith(".toml")
    ]
    return tuple(sorted(found, key=lambda manual: (not manual.tuning, manual.name)))


def _parse(name: str, source: str) -> Manual:
    record = tomllib.loads(source)
    correction = record.get("correction")
    return Manual(
        name,
        record["kind"],
        record["subject"],
        record["tuning"],
        record["text"].strip(),
        tuple(_question(one, "others") for one in record["questions"]),
        tuple(one["ask"] for one in record["unanswerable"]),
        correction
        and Correction(
            correction["text"].strip(),
            tuple(_question(one, "before") for one in correction["questions"]),
        ),
    )


def _question(record: dict, wrong: str) -> Asked:
    return Asked(record["ask"], tuple(record["accept"]), tuple(record[wrong]))


class Manuals(StageTask):
    """Texts read one after another, each asked about in other words from then on.

    A stage is a text of 190 to 220 words: a manual, minutes, a recipe, a letter ... The seed
    decides their order. A reply is right if it contains one of the accepted answers.
    """

    kind = "generate"
    match = "any"
    stop = ("\n",)
    source = "this project"

    @dataclass(frozen=True, kw_only=True)
    class Config(StageTask.Config):
        """The choice of texts."""

        held_out: bool = True  # texts that no method was developed on; False: the other half

    @classmethod
    def tiny(cls) -> "Manuals":
        """The task itself, which is small already."""
        return cls()

    @property
    def chance(self) -> float:
        """0: the facts cannot be guessed."""
        return 0.0

    def blind(self, rng: Random, question: Question) -> Answer:
        """An empty reply."""
        return ""

    def stages(self, seed: int) -> list[Stage]:
        """One text per stage."""
        chosen = [manual for manual in manuals() if manual.tuning != self.config.held_out]
        self.rng(seed, 0).shuffle(chosen)
        return [
            Stage(
                manual.name,
                (Question("", (manual.text,), joint=""),),
                tuple(
                    Question(PROMPT.format(ask=asked.ask), asked.accept, asked.choices)
                    for asked in manual.questions
                ),
            )
            for manual in chosen
        ]
