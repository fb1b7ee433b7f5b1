"""Headings and lists: a heading is no sentence, but it says what those below it are about."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from nestling.continual.study.verbs import finite
from nestling.continual.study.words import BULLET, words

NUMBER = re.compile(r"\(?(?:\d{1,2}|[A-Za-z])[.)]")  # alone: "1. Accidents." is split after it
PARENTHESES = re.compile(r"\s*\([^)]*\)")
LONGEST = 8  # words of a heading, at most
NUMBERED = 4  # words of one that ends with a full stop, after a number


class Line(NamedTuple):
    """A sentence, and the heading that it needs."""

    head: str  # "" without
    text: str


def outlined(sentences: Sequence[str]) -> list[Line]:
    """The sentences of a text without bullets, numbers and headings.

    A heading goes to every item of the list or row of the table below it, or to the first sentence.
    Items that finish the clause of their heading become sentences.

    >>> outlined(["You need:", "- 140 g of salt", "- a spoon", "Known faults", "It leaks."])[1:]
    [Line(head='', text='You need a spoon'), Line(head='Known faults', text='It leaks.')]
    >>> outlined(["1.", "Noise.", "It is loud.", "The rest is not."])[1:]
    [Line(head='', text='The rest is not.')]
    """
    found: list[Line] = []
    head, fresh, number = "", False, False
    for place, line in enumerate(sentences):
        if NUMBER.fullmatch(line.strip()) and place + 1 < len(sentences):
            number = True
            continue
        bare = BULLET.sub("", line).strip()
        item = number or bare != line.strip() or _row(bare)
        if _heads(sentences, place, number):
            head, fresh, number = bare.rstrip(" .:"), True, False
            continue
        under = head if item or fresh else ""
        head = PARENTHESES.sub("", head).strip()  # said once
        found.append(_finished(under, bare) if item and _open(under) else Line(under, bare))
        fresh = number = False
    return found


def _heads(sentences: Sequence[str], place: int, number: bool) -> bool:
    """Whether a sentence is a heading of what follows."""
    line, after = sentences[place].strip(), sentences[place + 1 : place + 2]
    count = len(words(line))
    if not after or not 0 < count <= LONGEST:
        return False
    if line.endswith(":"):
        return True
    if number:
        return count <= NUMBERED and line.endswith(".") and not NUMBER.fullmatch(after[0].strip())
    before = sentences[place - 1].strip() if place else "."
    bare = PARENTHESES.sub("", line).strip()  # "Opening times (from 1 October)"
    told = BULLET.match(after[0]) or after[0].strip()[-1:] in ".!?;" or _row(after[0])
    begins = before[-1:] in ".!?;:" or bool(BULLET.match(before)) or _row(before)
    return bool(bare and told and begins) and not (
        BULLET.match(line) or bare[-1] in ".!?;," or ":" in bare or _row(bare)
    )


def _row(line: str) -> bool:
    """Whether a line is a row of a table: "Adults: 6.40 euros", without a full stop."""
    own = line.strip()
    return own[-1:] not in ".!?;:" and (": " in own or any(word.counts for word in words(own)))


def _open(head: str) -> bool:
    """Whether a heading is a clause without its object: "You need", "The kit contains"."""
    own = words(head)
    begins = len(own) > 1 and own[0].low in ("you", "we", "it", "they", "the", "this")
    return begins and finite(own[-1].text) is not None


def _finished(head: str, item: str) -> Line:
    """The sentence that an item makes of an open clause; one that is a sentence stays as it is."""
    own = words(item)
    if item[-1:] in ".!?" and len(own) > 4:
        return Line("", item)
    proper = not own or own[0].counts or (own[0].named and len(own) > 1 and own[1].named)
    return Line("", f"{head} {item if proper else item[:1].lower() + item[1:]}")
