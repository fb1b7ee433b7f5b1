"""Corpora from Debian packages: long prose, verse, and a manual."""

import re
from collections.abc import Iterator
from functools import partial
from itertools import chain

from nestling.core.error import UserError
from nestling.data.cache import digest
from nestling.data.markup import html_sections, sword_chapters, sword_entries
from nestling.data.packages import fetched, members
from nestling.data.source import Source

_LINKS = re.compile(r"/(alinks|arlinks|links|pdf|contact|index|new)\.html$")  # lists, no prose


def _prose() -> Iterator[str]:
    for path, content in members("anarchism", r"/html/\w+\.html$"):
        if not _LINKS.search(path):
            yield from html_sections(content.decode())


def _verse(package: str) -> Iterator[str]:
    files = dict(members(package, r"/ztext/\w+/[on]t\.bz[svz]$"))
    stem = next(iter(files)).rsplit("/", 1)[0]
    for part in ("ot", "nt"):
        yield from sword_chapters(
            sword_entries(*(files[f"{stem}/{part}.{end}"] for end in ("bzs", "bzv", "bzz")))
        )


def _manual() -> Iterator[str]:
    for _, content in members("python3.11-doc", r"/html/_sources/.*\.rst\.txt$"):
        yield content.decode()


def _version(name: str, packages: tuple[str, ...]) -> str:
    records = []
    for package in packages:
        record = fetched(package)
        if record is None:
            raise UserError(f"corpus {name} has not been fetched; run nestling data fetch {name}")
        records.append(record.sha256)
    return digest(records)


def _source(name: str, package: str, licence: str, summary: str, read) -> Source:
    packages = (package,)
    return Source(
        name=name,
        summary=summary,
        licence=licence,
        read=read,
        version=partial(_version, name, packages),
        packages=packages,
    )


ANARCHISM = _source(
    "anarchism", "anarchism", "GPL-2", "An Anarchist FAQ: long English prose, 11 MB", _prose
)
KJV = _source(
    "kjv",
    "sword-text-kjv",
    "public domain (in the United Kingdom Crown rights)",
    "King James Bible by chapter, 4 MB",
    partial(_verse, "sword-text-kjv"),
)
WORLD_ENGLISH_BIBLE = _source(
    "world-english-bible",
    "sword-text-web",
    "public domain",
    "World English Bible by chapter, 5 MB",
    partial(_verse, "sword-text-web"),
)
MANUAL = _source(
    "python-doc", "python3.11-doc", "PSF-2.0", "the manual of Python 3.11 as reST, 11 MB", _manual
)

_PARTS = (ANARCHISM, KJV, WORLD_ENGLISH_BIBLE, MANUAL)
_ALL = tuple(chain.from_iterable(part.packages for part in _PARTS))
STANDARD = Source(
    name="standard",
    summary="anarchism, kjv, world-english-bible and python-doc together",
    licence="; ".join(f"{part.name}: {part.licence}" for part in _PARTS),
    read=lambda: chain.from_iterable(part.read() for part in _PARTS),
    version=partial(_version, "standard", _ALL),
    packages=_ALL,
)
