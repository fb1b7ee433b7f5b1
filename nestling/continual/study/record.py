"""The records of study: waiting documents, the open study, and the change of each document."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from nestling.continual.study.change import Change, Factors
from nestling.continual.study.material import Question
from nestling.continual.study.words import telling
from nestling.core.error import UserError
from nestling.data.textfiles import JSONL, PAGES, PARQUET

DIGITS = 6  # of a checksum, at least, to name a document
FILES = {".txt", *PAGES, *JSONL, *PARQUET}  # what ends the name of a file and no phrase


class Waiting(NamedTuple):
    """A document that has been read but not yet studied; its text is dropped after study."""

    name: str
    sha256: str  # of its tokens
    text: str
    about: str = ""  # its subject: a phrase, or the checksum of a document with the same


class Open(NamedTuple):
    """The progress of the study of the first waiting document."""

    plan: dict[str, Any]  # fields of a Plan
    passage: int = 0  # index of the current passage
    done: int = 0  # steps done for it
    questions: tuple[Question, ...] = ()  # questions of this passage; empty if not made yet
    earlier: tuple[Question, ...] = ()  # questions of the passages before it
    tensors: dict[str, Tensor] = {}  # the change, and its optimizer state
    seconds: float = 0.0  # so far


class Studied(NamedTuple):
    """The change that one document made, with its record."""

    name: str
    sha256: str  # of its tokens
    questions: tuple[Question, ...]
    missing: tuple[str, ...]  # content words that no question asks for
    change: Change  # 16 bits per number
    figures: dict[str, float]  # made, asked, right_before, right_after, held, held_right ...
    about: str = ""  # its subject, as a phrase
    topic: tuple[str, ...] = ()  # words that tell what it is about, if it has no title
    alone: bool = True  # studied from the base, not on top of earlier documents

    @property
    def label(self) -> str:
        """Its name or, without one, the start of its checksum."""
        return self.name or self.sha256[:12]


def find_studied(studied: Sequence[Studied], document: str | int) -> int:
    """The index of a document, given its name, the start of its checksum, or its number.

    With several of the same name, the last one. Raises UserError if there is none.
    """
    if isinstance(document, int) and 0 <= document < len(studied):
        return document
    named = [n for n, one in enumerate(studied) if document in (one.name, str(n))]
    digests = [n for n, one in enumerate(studied) if one.sha256.startswith(str(document))]
    found = named or (digests if len(str(document)) >= DIGITS else [])
    if not found:
        known = ", ".join(one.label for one in studied) or "none"
        raise UserError(f"no document {document!r} was studied; known: {known}")
    return found[-1]


def subject_named(about: str, known: Sequence[tuple[str, str]]) -> str:
    """What ``about`` names: the checksum of a document, else a phrase without its last full stop.

    ``known`` has the name and checksum of each document that may be meant. Exact names come first,
    then names without their folders, then checksums by their first six digits or more; of several
    the last. Raises UserError for a file that is none of them, and for a phrase without a content
    word.
    """
    short = Path(about).name
    matches = (
        [sha256 for name, sha256 in known if name == about],
        [sha256 for name, sha256 in known if name and Path(name).name == short],
        [sha256 for _, sha256 in known if len(about) >= DIGITS and sha256.startswith(about)],
    )
    for found in matches:
        if found:
            return found[-1]
    if Path(about).suffix.lower() in FILES or Path(about).exists():
        names = ", ".join(dict.fromkeys(name or sha256[:12] for name, sha256 in known)) or "none"
        raise UserError(
            f"no document {about!r} was studied; learn it first, or give the subject as a phrase "
            f"(known: {names})"
        )
    phrase = " ".join(about.split()).rstrip(". ")
    if not telling(phrase):
        raise UserError(
            f"about is {about!r}; give the subject as a phrase, such as 'the harbour committee', "
            "or the name of a document that was studied"
        )
    return f"the {phrase[4:]}" if phrase.startswith("The ") else phrase


def subject_given(about: str, studied: Sequence[Studied]) -> str:
    """The subject that was given for a waiting text; "" for a document that is gone or has none."""
    if re.fullmatch(r"[0-9a-f]{64}", about):
        return next((one.about for one in studied if one.sha256 == about), "")
    return about


def change_tensors(number: int, one: Studied) -> dict[str, Tensor]:
    """The tensors of a document's change, by their names in a file."""
    return {
        f"study.{number}.{side}.{name}": value
        for name, factors in one.change.items()
        for side, value in zip(Factors._fields, factors, strict=True)
    }


def studied_record(one: Studied) -> dict[str, Any]:
    """The record of a document in a file: everything but the change."""
    return {
        "name": one.name,
        "sha256": one.sha256,
        "questions": [list(question) for question in one.questions],
        "missing": list(one.missing),
        "maps": list(one.change),
        "figures": one.figures,
        "about": one.about,
        "topic": list(one.topic),
        "alone": one.alone,
    }


def studied_of(number: int, about: dict[str, Any], tensors: dict[str, Tensor]) -> Studied:
    """The inverse of ``studied_record`` and ``change_tensors``."""
    change = {
        name: Factors(*(tensors[f"study.{number}.{side}.{name}"] for side in Factors._fields))
        for name in about["maps"]
    }
    return Studied(
        about["name"],
        about["sha256"],
        tuple(Question(*question) for question in about["questions"]),
        tuple(about["missing"]),
        change,
        about["figures"],
        about.get("about", ""),
        tuple(about.get("topic", ())),
        about.get("alone", False),
    )


def open_record(one: Open) -> dict[str, Any]:
    """The record of an open study in a file: everything but its tensors."""
    found = one._asdict()
    del found["tensors"]
    found["questions"] = [list(question) for question in one.questions]
    found["earlier"] = [list(question) for question in one.earlier]
    return found


def open_of(about: dict[str, Any], tensors: dict[str, Tensor]) -> Open:
    """The inverse of ``open_record``; ``tensors`` have the names used by ``Training``."""
    return Open(
        about["plan"],
        about["passage"],
        about["done"],
        tuple(Question(*question) for question in about["questions"]),
        tuple(Question(*question) for question in about["earlier"]),
        tensors,
        about["seconds"],
    )
