"""Ten short texts with made-up facts, and plain questions about them."""

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


def told_texts() -> dict[str, Told]:
    """The texts by name, in the order of their file."""
    source = files("nestling_lab.studies.continual").joinpath("told.toml").read_text("utf-8")
    found = [
        Told(
            one["name"],
            one["kind"],
            one["text"].strip(),
            tuple((ask, tuple(accept)) for ask, accept in one["questions"]),
        )
        for one in tomllib.loads(source)["texts"]
    ]
    return {one.name: one for one in found}
