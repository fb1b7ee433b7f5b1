"""Texts of the studies ``manuals`` and ``corrections``: invented facts, questions, corrections."""

import tomllib
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

from nestling.tasks.manuals import Asked, first_mention

SOURCE = "manuals.toml"
KINDS = ("questions", "unanswerable", "changed", "unchanged", "added")  # of questions


class Manual(NamedTuple):
    """A text, the questions about it, and a later correction."""

    name: str
    kind: str  # what sort of text it is
    tuning: bool  # whether methods may be developed on it; the others are only for measuring
    text: str
    correction: str  # "" if there is none
    questions: tuple[Asked, ...]  # answered by the text, and not corrected
    unanswerable: tuple[Asked, ...]  # nothing is accepted; ``others``: the text's own values
    changed: tuple[Asked, ...]  # changed by the correction; ``others``: the old values
    unchanged: tuple[Asked, ...]  # not changed by the correction
    added: tuple[Asked, ...] = ()  # only in the correction

    @property
    def asked(self) -> tuple[Asked, ...]:
        """All questions, in the order of their replies."""
        return tuple(one for kind in KINDS for one in getattr(self, kind))

    def scores(self, replies: Sequence[str]) -> dict[str, list[bool]]:
        """Whether each reply is as it should be, by kind of question."""
        left = iter(replies)
        return {kind: [_passes(one, next(left)) for one in getattr(self, kind)] for kind in KINDS}

    def known_before(self, replies: Sequence[str]) -> list[bool]:
        """Whether each reply about a fact changed later has the old value."""
        first = len(self.questions) + len(self.unanswerable)
        own = replies[first : first + len(self.changed)]
        old = [one._replace(accept=one.others, others=one.accept) for one in self.changed]
        return [one.right(reply) for one, reply in zip(old, own, strict=True)]


def _passes(asked: Asked, reply: str) -> bool:
    """Whether a reply is right or, for an unanswerable question, has no value of the text.

    >>> nobody = Asked("Who invented it?", (), ("Hovarth",))
    >>> _passes(nobody, "Ada Hovarth."), _passes(nobody, "That is not said."), _passes(nobody, "")
    (False, True, True)
    """
    if asked.accept:
        return asked.right(reply)
    return first_mention(reply, asked.others) is None


@cache
def manual_texts(name: str = SOURCE) -> dict[str, Manual]:
    """The texts of a file by name, held-out ones first."""
    source = files("nestling_lab.studies.continual").joinpath(name).read_text("utf-8")
    found = [_parse(one) for one in tomllib.loads(source)["texts"]]
    return {one.name: one for one in sorted(found, key=lambda one: one.tuning)}


def _parse(record: dict[str, Any]) -> Manual:
    def asked(kind: str) -> tuple[Asked, ...]:
        return tuple(_question(*one) for one in record.get(kind, ()))

    return Manual(
        record["name"],
        record["kind"],
        record.get("tuning", False),
        record["text"].strip(),
        record.get("correction", "").strip(),
        asked("questions"),
        tuple(Asked(ask, (), tuple(wrong)) for ask, wrong in record["unanswerable"]),
        asked("changed"),
        asked("unchanged"),
        asked("added"),
    )


def _question(ask: str, accept: list[str], wrong: Sequence[str] = ()) -> Asked:
    return Asked(ask, tuple(accept), tuple(wrong))
