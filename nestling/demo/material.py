"""The texts and questions of the demo: its own, or the user's."""

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

from nestling.continual.opening import read_documents
from nestling.continual.study.examine import holds
from nestling.core.error import UserError

SHIPPED = ("ferry", "orchard")  # texts/NAME.txt, and texts/NAME.tsv with questions
KEPT = "kept"  # a text that is not learned, and general questions


class Asked(NamedTuple):
    """A question and its right answers; empty: unknown."""

    question: str
    answers: tuple[str, ...] = ()

    def right(self, said: str) -> bool:
        """Whether ``said`` contains one of the right answers, word for word."""
        return any(holds(said, answer) for answer in self.answers)


class Material(NamedTuple):
    """The texts that are read, and the questions asked about them."""

    documents: tuple[tuple[str, str], ...]  # name and text
    asked: tuple[Asked, ...]  # about the documents; empty: some of those made in study
    general: tuple[Asked, ...]  # about what the model knew before
    kept: str  # a text that is not learned, whose loss is measured


def material(texts: Sequence[str] = (), questions: Path | None = None) -> Material:
    """The material of texts (names of SHIPPED, files, folders) and a file of questions."""
    own = [text for text in texts if text not in SHIPPED]
    if own and questions is None and len(own) < len(texts):
        raise UserError("give your own texts or shipped ones, or --questions for all of them")
    documents = []
    for text in texts or SHIPPED[:1]:
        found = [(text, shipped(f"{text}.txt"))] if text in SHIPPED else read_documents([text])
        documents += found
    asked: list[Asked] = []
    if questions is not None:
        [(_, text)] = read_documents([questions])
        asked = parsed(text)
        if not asked:
            raise UserError(
                f"{questions} has no questions; write one per line, with its answer after a tab"
            )
    elif not own:
        asked = [one for name, _ in documents for one in parsed(shipped(f"{name}.tsv"))]
    general = tuple(parsed(shipped(f"{KEPT}.tsv")))
    return Material(tuple(documents), tuple(asked), general, shipped(f"{KEPT}.txt"))


def parsed(text: str) -> list[Asked]:
    r"""Questions, one per line, each followed by its right answers, separated by tabs.

    >>> parsed("How many?\tten\t10\n\nWho?\n")
    [Asked(question='How many?', answers=('ten', '10')), Asked(question='Who?', answers=())]
    """
    rows = [[part.strip() for part in line.split("\t")] for line in text.splitlines()]
    return [Asked(row[0], tuple(filter(None, row[1:]))) for row in rows if row[0]]


def shipped(name: str) -> str:
    """A file of the package."""
    return files("nestling.demo").joinpath("texts", name).read_text(encoding="utf-8")
