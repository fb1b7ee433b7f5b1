"""Sets of records: labelled texts, texts with their translations, described packages."""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from nestling.core.error import UserError
from nestling.core.registry import Registry
from nestling.data.cache import cache_folder, damaged, digest, keep

SETS = Registry(
    "data set",
    {
        "intents": "nestling.data.intents:INTENTS",
        "sections": "nestling.data.descriptions:SECTIONS",
        "clinc150": "nestling.data.hub:CLINC150",
        "banking77": "nestling.data.hub:BANKING77",
        "dbpedia": "nestling.data.hub:DBPEDIA",
        "packages": "nestling.data.descriptions:PACKAGES",
        "verses": "nestling.data.verses:VERSES",
        "campaign": "nestling.data.verses:CAMPAIGNS",
        "synopses": "nestling.data.descriptions:SYNOPSES",
    },
)
Report = Callable[[str], None]


class Labelled(NamedTuple):
    """A text and its class."""

    text: str
    label: str
    part: str = ""  # "learn" or "ask", if the set itself is split


class Pair(NamedTuple):
    """A text and its English translation."""

    text: str
    english: str
    language: str  # of the text


class Described(NamedTuple):
    """A package with its section, a description of one line, and a long one."""

    name: str
    section: str
    line: str
    text: str


@dataclass(frozen=True, kw_only=True)
class TextSet:
    """The source of a set: its name, licence, and how to make its records."""

    name: str
    summary: str  # one line for `nestling data list`
    licence: str
    record: type  # Labelled, Pair or Described
    make: Callable[[Report], Iterable[tuple[str, ...]]]  # fetches and yields the records


@dataclass(frozen=True, kw_only=True)
class Records:
    """The cached records of a set."""

    name: str
    rows: list  # of Labelled, of Pair or of Described
    sha256: str
    licence: str

    @property
    def tag(self) -> str:
        """Name and hash, as recorded in a Result."""
        return f"{self.name}@{self.sha256[:16]}"


def place(name: str) -> Path:
    """The cached file of a set."""
    return cache_folder() / "sets" / f"{name}.jsonl"


def _digest(rows: Iterable[tuple[str, ...]]) -> str:
    return digest(json.dumps(row) for row in rows)


def fetch_set(name: str, report: Report = print) -> Records:
    """Fetch a set into the cache, unless it is there; the file appears complete or not at all."""
    found: TextSet = SETS.load(name)
    if not place(name).exists():
        rows = [tuple(row) for row in found.make(report)]
        if not rows:
            raise UserError(f"{name} has no records: its source has changed")
        about = {"licence": found.licence, "sha256": _digest(rows)}
        lines = [json.dumps(item) for item in (about, *rows)]
        keep(place(name), ("\n".join(lines) + "\n").encode())
    records = load_set(name)
    report(f"{name}: {len(records.rows)} records, sha256 {records.sha256}")
    return records


def load_set(name: str) -> Records:
    """The records of a set. Raises UserError if it has not been fetched or is damaged."""
    found: TextSet = SETS.load(name)
    path = place(name)
    if not path.exists():
        raise UserError(f"{name} has not been fetched; run nestling data fetch {name}")
    try:
        head, *lines = path.read_text(encoding="utf-8").splitlines()
        about = json.loads(head)
        rows = [tuple(json.loads(line)) for line in lines]
        sha256 = about["sha256"]
        records = [found.record(*row) for row in rows]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise damaged(path, error) from error
    if _digest(rows) != sha256:
        raise damaged(path, "its hash does not match its records")
    return Records(name=name, rows=records, sha256=sha256, licence=found.licence)
