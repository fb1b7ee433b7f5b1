"""Headings and lists: a heading is no sentence, but it says what those below it are about."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from nestling.continual.study.verbs import finite
from nestling.continual.study.words import words

BULLET = re.compile(r"^\s*(?:[-*+•–—·]|\(?\d{1,2}\))\s+(?=\S)")
NUMBER = re.compile(r"\(?(?:\d{1,2}|[A-Za-z])[.)]")  # alone: "1. Accidents." is split after it
LONGEST = 8  # words of a heading, at most
NUMBERED = 4  # words of one that ends with a full stop, after a number


class Line(NamedTuple):
    """A sentence, and the heading that it needs."""

    head: str  # "" without
    text: str


def outlined(sentences: Sequence[str]) -> list[Line]:
    """The sentences of a text without bullets, numbers and headings.

    A heading goes to every item of the list below it, or to the first sentence. Items that finish
    the clause of their heading become sentences.

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
        item = number or bare != line.strip()
        if _heads(sentences, place, number):
            head, fresh, number = bare.rstrip(" .:"), True, False
            continue
        under = head if item or fresh else ""
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
    row = BULLET.match(line) or line[-1] in ".!?;," or any(word.counts for word in words(line))
    told = BULLET.match(after[0]) or after[0].strip()[-1:] in ".!?;"
    return not row and bool(told) and (before[-1:] in ".!?;:" or bool(BULLET.match(before)))


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
