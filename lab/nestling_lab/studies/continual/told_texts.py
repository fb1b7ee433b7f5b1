"""Short texts with made-up facts, ten in a file, and plain questions about them."""

import tomllib
from collections.abc import Sequence
from importlib.resources import files
from typing import NamedTuple


class Told(NamedTuple):
    """A text, and questions with the values that count as right."""

    name: str
    kind: str
    text: str
    questions: tuple[tuple[str, tuple[str, ...]], ...]
    unanswered: tuple[str, ...] = ()  # questions that the text does not answer

    def right(self, replies: list[str]) -> list[bool]:
        """Whether each reply contains one of the values accepted for its question."""
        pairs = zip(self.questions, replies, strict=True)
        return [right(said, accept) for (_, accept), said in pairs]

    def quiet(self, replies: Sequence[str]) -> list[bool]:
        """Whether each reply to an unanswerable question has no value of the text."""
        values = [value for _, accept in self.questions for value in accept]
        return [not right(said, values) for said in replies]


def right(reply: str, accept: Sequence[str]) -> bool:
    """Whether a reply contains one of the accepted values.

    >>> right("It is open on Wednesdays.", ("wednesday",)), right("", ("wednesday",))
    (True, False)
    """
    return any(value.lower() in reply.lower() for value in accept)


# general knowledge, asked for before and after the model has read something else
GENERAL = (
    ("What is the capital of France?", ("Paris",)),
    ("Which planet do we live on?", ("Earth",)),
    ("How many legs does a spider have?", ("eight", "8")),
    ("Who wrote Romeo and Juliet?", ("Shakespeare",)),
    ("What is the opposite of hot?", ("cold",)),
    ("How many days are there in a week?", ("seven", "7")),
)
SOURCES = (
    "told.toml",
    "told_again.toml",
    "told_checked.toml",
    "told_fresh.toml",
    "told_new.toml",
    "told_plain.toml",
)


def told_texts(*sources: str) -> dict[str, Told]:
    """The texts of some files (default: all), by name and in order."""
    folder = files("nestling_lab.studies.continual")
    found = [
        Told(
            one["name"],
            one["kind"],
            one["text"].strip(),
            tuple((ask, tuple(accept)) for ask, accept in one["questions"]),
            tuple(one.get("unanswered", ())),
        )
        for source in sources or SOURCES
        for one in tomllib.loads(folder.joinpath(source).read_text("utf-8"))["texts"]
    ]
    return {one.name: one for one in found}
