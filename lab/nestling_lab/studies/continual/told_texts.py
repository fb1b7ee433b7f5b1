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

    def right(self, replies: list[str]) -> list[bool]:
        """Whether each reply holds one of the values accepted for its question."""
        pairs = zip(self.questions, replies, strict=True)
        return [right(said, accept) for (_, accept), said in pairs]


def right(reply: str, accept: Sequence[str]) -> bool:
    """Whether a reply holds one of the accepted values.

    >>> right("It is open on Wednesdays.", ("wednesday",)), right("", ("wednesday",))
    (True, False)
    """
    return any(value.lower() in reply.lower() for value in accept)


SOURCES = ("told.toml", "told_again.toml")


def told_texts(*sources: str) -> dict[str, Told]:
    """The texts of some files, by default of all, by name and in their order."""
    folder = files("nestling_lab.studies.continual")
    found = [
        Told(
            one["name"],
            one["kind"],
            one["text"].strip(),
            tuple((ask, tuple(accept)) for ask, accept in one["questions"]),
        )
        for source in sources or SOURCES
        for one in tomllib.loads(folder.joinpath(source).read_text("utf-8"))["texts"]
    ]
    return {one.name: one for one in found}
