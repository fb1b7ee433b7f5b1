"""Splits texts into sentences, words, and the parts of a sentence that may be asked for."""

import re
from collections.abc import Iterable
from typing import NamedTuple


def listed(text: str) -> frozenset[str]:
    """The whitespace-separated words of a text, as a set."""
    return frozenset(text.split())


WORD = re.compile(r"[^\W_]+(?:[-'’.,:/&][^\W_]+)*", re.UNICODE)
# a sentence ends at . ! ? before whitespace and a possible next start, or with its line
ENDS = re.compile(r"(?<=[.!?])[\"'”’)]*\s+(?=[\"'“‘(]*[\w])|\n+")
BULLET = re.compile(r"^\s*(?:[-*+•–—·]|\(?\d{1,2}\))\s+(?=\S)")  # of a list item
WRAPPED = 50  # characters; a longer line that ends no sentence continues in the next one
SHORT = listed(
    """
    mr mrs ms dr st prof no nr vs etc e.g i.e fig approx
    """
)
# English function words, which carry no facts
STOP = listed(
    """
    a about above after again against all also am an and any are as at be because been
    before being below between both but by can cannot could did do does doing down during
    each either else ever every few for from further had has have having he her here hers
    him his how however i if in into is it its itself just may me might more most much
    must my near neither no nor not of off on once one only onto or other others our out
    over own per shall she should since so some such than that the their them then there
    therefore these they this those though through thus to too under unless until up upon
    us very was we were what when where whether which while who whom whose why will with
    within without would yet you your
    """
)
NUMBER = listed(
    """
    one two three four five six seven eight nine ten eleven twelve thirteen fourteen
    fifteen sixteen seventeen eighteen nineteen twenty thirty forty fifty sixty seventy
    eighty ninety hundred thousand million billion half quarter third dozen first second
    """
)
ORDINAL = listed("first second third fourth fifth sixth seventh eighth ninth tenth")
# adverbs that are not asked for
ADVERBS = listed(
    """
    never always now often still today usually soon later afterwards sometimes already
    even well together
    """
)
NEVER = listed(
    """
    no not never none nobody nothing neither nor without cannot
    """
)


class Word(NamedTuple):
    """A word of a sentence."""

    text: str
    begin: int  # characters
    end: int

    @property
    def low(self) -> str:
        """The word in lower case."""
        return self.text.lower()

    @property
    def stem(self) -> str:
        """The word without the ending of a genitive."""
        return re.sub("['’]s?$", "", self.text)

    @property
    def bare(self) -> str:
        """The same in lower case."""
        return self.stem.lower()

    @property
    def counts(self) -> bool:
        """Whether it is a number."""
        return self.text[0].isdigit() or self.low.split("-")[0] in NUMBER

    @property
    def ranks(self) -> bool:
        """Whether it is an ordinal number."""
        return self.low in ORDINAL or re.fullmatch(r"\d+(?:st|nd|rd|th)", self.low) is not None

    @property
    def tells(self) -> bool:
        """Whether it is a content word, a number or a name."""
        return self.low not in STOP or self.counts or self.month

    @property
    def month(self) -> bool:
        """Whether it is the month of May, and not the verb: it has a capital within a text."""
        return self.text == "May" and self.begin > 0

    @property
    def named(self) -> bool:
        """Whether it starts with a capital letter."""
        return self.text[0].isupper()


class Span(NamedTuple):
    """Consecutive words of a sentence: a possible answer."""

    text: str
    first: int  # index of the first word
    last: int  # index of the last word


def words(text: str) -> list[Word]:
    """The words of a text with their positions.

    >>> [word.text for word in words("The K-4471 holds 2.5 litres.")]
    ['The', 'K-4471', 'holds', '2.5', 'litres']
    """
    return [Word(m.group(), m.start(), m.end()) for m in WORD.finditer(text)]


def telling(text: str) -> list[str]:
    """The distinct content words, numbers and names of a text, in lower case.

    >>> telling("It must be serviced every eleven weeks.")
    ['serviced', 'eleven', 'weeks']
    """
    return list(dict.fromkeys(word.low for word in words(text) if word.tells))


def unwrapped(text: str) -> str:
    """Join wrapped lines, so that each paragraph is on one line.

    >>> unwrapped("a\\nb\\n" + "long " * 12 + "\\nend")[-14:]
    'long long  end'
    """
    lines = text.splitlines()
    found = "".join(lines[:1])
    for last, line in zip(lines, lines[1:], strict=False):
        ends = len(last) < WRAPPED or last.rstrip()[-1:] in ".!?:;"
        goes_on = line.strip() and not ends and not BULLET.match(line)
        found += f"{' ' if goes_on else chr(10)}{line}"
    return found


def sentences(text: str) -> list[str]:
    """The sentences of a text, each on one line.

    >>> sentences("Dr. Hill came. He left\\n\\nat 5.30 p.m.")
    ['Dr. Hill came.', 'He left', 'at 5.30 p.m.']
    """
    found: list[str] = []
    for part in ENDS.split(unwrapped(text)):
        part = " ".join(part.split())
        if not part:
            continue
        last = words(found[-1])[-1:] if found else []
        if last and found[-1].endswith(".") and last[0].low in SHORT:
            found[-1] += " " + part
        else:
            found.append(part)
    return [part for part in found if words(part)]


def spans(sentence: str, longest: int = 4) -> list[Span]:
    """The parts that may be asked for: runs of content words, parts of them, and joined pairs.

    >>> [span.text for span in spans("It holds 340 litres of oil.", 3)]
    ['holds', '340 litres', 'oil', '340 litres of oil']
    """
    found: list[Span] = []
    own = words(sentence)

    def add(first: int, last: int) -> None:
        text = sentence[own[first].begin : own[last].end]
        span = Span(text, first, last)
        if span not in found:
            found.append(span)

    runs = list(_runs(sentence, own))
    for first, last in runs:
        for begin, end in _parts(own, first, last, longest):
            add(begin, end)
    for (a, b), (c, d) in zip(runs, runs[1:], strict=False):
        joint = [word.low for word in own[b + 1 : c]]
        between = sentence[own[b].end : own[c].begin].strip()
        if len(joint) <= 2 and " ".join(joint) == between.lower() and joint[0] == "of":
            begin = max(a, b - 1)
            if d - begin <= longest + 1:
                add(begin, d)
    return found


def denied(sentence: str) -> bool:
    """Whether a sentence forbids or denies something."""
    return any(word.low in NEVER or word.low.endswith("n't") for word in words(sentence))


def with_article(sentence: str, span: Span) -> str:
    """A part of a sentence with its article.

    >>> with_article("It hangs in the hall.", Span("hall", 4, 4))
    'the hall'
    """
    own = words(sentence)
    first = span.first
    if first > 0 and own[first - 1].low in ("a", "an", "the"):
        first -= 1
    return sentence[own[first].begin : own[span.last].end]


def _runs(sentence: str, own: list[Word]) -> Iterable[tuple[int, int]]:
    """Yield runs of content words that are separated only by spaces."""
    first = None
    for number, word in enumerate(own):
        if not word.tells:
            if first is not None:
                yield first, number - 1
            first = None
            continue
        if first is not None and sentence[own[number - 1].end : word.begin].strip():
            yield first, number - 1
            first = None
        first = number if first is None else first
    if first is not None:
        yield first, len(own) - 1


def _parts(own: list[Word], first: int, last: int, longest: int) -> list[tuple[int, int]]:
    """A short run itself; for a mixed one its numbers with what they count, and its names."""
    cuts = [first]
    for number in range(first + 1, last + 1):
        before, word = own[number - 1], own[number]
        begins = word.named and not before.named and not before.counts
        ends = before.named and not word.named and not word.counts and number - 1 > 0
        counted = word.counts and not before.counts and not before.named
        if begins or ends or counted:
            cuts.append(number)
    edges = [*cuts, last + 1]
    found = []
    for begin, end in zip(edges, edges[1:], strict=False):
        end -= 1
        if end - begin >= longest:
            begin = end - longest + 1
        found.append((begin, end))
    return found
