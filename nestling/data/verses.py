"""The Bible verse by verse in Spanish and English; a campaign's dialogue in three languages."""

import html
import re
import struct
from collections.abc import Iterator

from nestling.data.markup import sword_entries
from nestling.data.packages import fetch, members
from nestling.data.sets import Pair, Report, TextSet

SPANISH, ENGLISH = "sword-text-sparv", "sword-text-kjv"
CAMPAIGN = "wesnoth-1.16-httt"
LANGUAGES = ("la", "gd", "eo")  # Latin, Scottish Gaelic, Esperanto


def verses(package: str) -> list[str]:
    """Every entry of a Bible module as plain text, Old Testament first; many are empty."""
    files = dict(members(package, r"/ztext/\w+/[on]t\.bz[svz]$"))
    stem = next(iter(files)).rsplit("/", 1)[0]
    found = []
    for part in ("ot", "nt"):
        names = (f"{stem}/{part}.{end}" for end in ("bzs", "bzv", "bzz"))
        found += map(plain, sword_entries(*(files[name] for name in names)))
    return found


def plain(entry: str) -> str:
    """A verse without notes, titles and markup.

    >>> plain('<w lemma="x">In</w> the <note>n</note>beginning<title>t</title>')
    'In the beginning'
    """
    text = re.sub(r"(?s)<note\b.*?</note>|<title\b.*?</title>", "", entry)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", "", text)).split())


def aligned(spanish: list[str], english: list[str]) -> Iterator[Pair]:
    """Pair the verses of two modules, which number them in the same way."""
    for text, meaning in zip(spanish, english, strict=True):
        if len(text.split()) > 2 and len(meaning.split()) > 2:
            yield Pair(text, meaning, "es")


def bible(report: Report) -> Iterator[Pair]:
    """Fetch both modules and align them."""
    for package in (SPANISH, ENGLISH):
        fetch(package, report)
    yield from aligned(verses(SPANISH), verses(ENGLISH))


def messages(content: bytes) -> Iterator[tuple[str, str]]:
    """Yield (original, translation) of a gettext catalogue (.mo), in file order."""
    order = "<" if content[:4] == b"\xde\x12\x04\x95" else ">"
    _, _, count, *places = struct.unpack_from(f"{order}5I", content)
    for index in range(count):
        pair = []
        for place in places:
            size, begin = struct.unpack_from(f"{order}2I", content, place + 8 * index)
            pair.append(content[begin : begin + size].decode())
        yield pair[0], pair[1]


def catalogue(content: bytes, language: str) -> Iterator[Pair]:
    """The one-line messages without markup or plural forms; contexts and hints are removed."""
    for original, text in sorted(messages(content)):
        meaning = original.rpartition("\x04")[2].rpartition("^")[2]
        both = text + meaning
        if len(meaning.split()) > 2 and text != meaning and not re.search(r"[<>\n$\0]", both):
            yield Pair(text, meaning, language)


def campaign(report: Report) -> Iterator[Pair]:
    """Fetch the campaign and read its catalogues."""
    fetch(CAMPAIGN, report)
    for language in LANGUAGES:
        for _, content in members(CAMPAIGN, rf"/locale/{language}/LC_MESSAGES/wesnoth-httt\.mo$"):
            yield from catalogue(content, language)


VERSES = TextSet(
    name="verses",
    summary="the Bible verse by verse: Reina-Valera 1909 and King James",
    licence="public domain (King James: in the United Kingdom Crown rights)",
    record=Pair,
    make=bible,
)
CAMPAIGNS = TextSet(
    name="campaign",
    summary="dialogue of the game Wesnoth in Latin, Gaelic, Esperanto, and in English",
    licence="GPL-2+",
    record=Pair,
    make=campaign,
)
