"""Splits a document into passages of a few sentences, each with the subject of the whole."""

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from nestling.continual.study.letter import letter
from nestling.continual.study.outline import Line, outlined
from nestling.continual.study.pronouns import refers_to_subject
from nestling.continual.study.statement import statements
from nestling.continual.study.verbs import finite, noun
from nestling.continual.study.words import STOP, sentences, telling, words

TITLE = 14  # words of a title, at most
OPENING = 2  # sentences that introduce what a text without a title is about
LONG = 8  # sentences of such a text, at least
# what may precede the subject in a title: the kind of text, its addressee, an activity
TEXTS = re.compile(
    r"""^(?:
    (?:the\s+|a\s+|some\s+)?
    (?:minutes|prices?|price\ list|list|manual|notes?|notice|report|letter|recipe|story|history|
       biography|life|description|guide|instructions?|changelog|release\ notes|rules|news|summary|
       correction(?:\ slip|\ to\ the\ minutes)?)
    \s+(?:of|for|from|on|about|to)
    | about | on | to(?:\s+the\s+\w+\s+(?:of|at))?
    | what(?:\s+is|\s+has|'s)\s+(?:new|changed)\s+(?:in|at|with)
    | (?:using|visiting)(?=\s+the\b) | how\s+to\s+\w+
    )\s+""",
    re.IGNORECASE | re.VERBOSE,
)
# a kind of text alone, before what it is about: "Minutes: Harbour Committee, 4 March"
ALONE = re.compile(
    r"^(?:the\s+)?(?:minutes|notice|report|letter|recipe|story|guide|instructions?|changelog|news"
    r"|release\s+notes|rules|summary|manual|memo|reminder|announcement|prices?|price\s+list)$",
    re.IGNORECASE,
)
# the bridge is closed
VERB = re.compile(r"\s+(?:is|are|was|were|will|has|have|must|may|can|cannot|should|shall)\b")
UNNAMED = STOP | {"dear", "hello", "hi"}  # no names, whatever their first letter
LONGEST = 60  # words of a sentence, at most; longer ones are cut at the end of a clause


class Passage(NamedTuple):
    """Consecutive sentences of a document."""

    title: str  # of the document; "" without one
    about: str  # the subject of the document, as a phrase
    sentences: tuple[str, ...]
    begin: int  # index of its first sentence that is not in an earlier passage
    heads: tuple[str, ...] = ()  # the heading that each sentence needs, or ""; (): none needs one
    topic: tuple[str, ...] = ()  # words that tell what a document without a title is about

    @property
    def subjects(self) -> list[str]:
        """What an initial pronoun of each sentence stands for: the subject, or "" (unknown).

        Without a title the subject is a guess, and stands for nothing unless a sentence begins with
        it.
        """
        bare = self.about.removeprefix("the ").lower()
        if not self.title and not any(
            line.lower().removeprefix("the ").startswith(bare) for line in self.sentences
        ):
            return [""] * len(self.sentences)
        found = refers_to_subject(self.sentences, self.about)
        return [self.about if fits else "" for fits in found]

    @property
    def text(self) -> str:
        """The text of the passage, after the title on a separate line."""
        body = " ".join(map(under, self.heads or [""] * len(self.sentences), self.sentences))
        return f"{self.title}\n\n{body}" if self.title else body


def passages(text: str, size: Callable[[str], int], limit: int, about: str = "") -> list[Passage]:
    """The passages of a document, each of at most ``limit`` tokens as counted by ``size``.

    If there are several, each starts with the last sentence of the previous one. ``about`` is the
    subject of a text that does not name it, such as a notice; by default the text tells it.
    """
    lines = [line for whole in sentences(text) for line in _short(whole)]
    sent = letter(lines)
    title = "" if sent else _title(text, lines)
    body = outlined(sent.body if sent else lines[1:] if title else lines)
    if not body:
        title, body, sent = "", [Line("", line) for line in lines], None
    if about:
        title = _titled(about, title)
    else:
        about = sent.about if sent else subject(title, [line.text for line in body])
    topic = () if title else opening([line.text for line in body])
    found: list[Passage] = []
    own: list[Line] = []
    begin = held = 0

    def passage() -> Passage:
        heads, told = zip(*own, strict=True)
        return Passage(title, about, told, begin, heads if any(heads) else (), topic)

    for line in body:
        here = size(under(*line))
        if own and held + here > limit:
            found.append(passage())
            own, begin = [own[-1]], 1
            held = size(under(*own[0]))
        own.append(line)
        held += here
    return [*found, passage()] if own else found


def _titled(about: str, title: str) -> str:
    """A title that begins with the subject.

    >>> _titled("the Sarnow lift", "Correction"), _titled("Ida", "News of Ida")
    ('The Sarnow lift: Correction', 'News of Ida')
    """
    if set(telling(about)) <= set(telling(title)):
        return title
    return ": ".join(filter(None, [about[:1].upper() + about[1:], title]))


def opening(sentences: Sequence[str]) -> tuple[str, ...]:
    """The content words of the first two sentences of a longer text, after a greeting.

    >>> opening(["Dear Ida,", "Thank you for the harp.", "It sounds well.", *["It rained."] * 6])
    ('thank', 'harp', 'sounds', 'well')
    """
    told = [one for one in sentences if not one.rstrip().endswith(",")]
    return tuple(telling(" ".join(told[:OPENING]))) if len(told) >= LONG else ()


def under(head: str, sentence: str) -> str:
    """A sentence after its heading.

    >>> under("Noise", "It is loud."), under("", "It is loud.")
    ('Noise: It is loud.', 'It is loud.')
    """
    return f"{head}: {sentence}" if head else sentence


def _short(sentence: str) -> list[str]:
    """Split a sentence into parts that are not too long."""
    own = words(sentence)
    if len(own) <= LONGEST:
        return [sentence]
    middle = own[LONGEST // 2].begin
    cuts = [m.end() for m in re.finditer(r"[,;:]\s", sentence) if m.end() >= middle]
    cut = cuts[0] if cuts and cuts[0] <= own[LONGEST - 1].end else own[LONGEST - 1].end
    return [sentence[:cut].strip(), *_short(sentence[cut:].strip())]


def _title(text: str, lines: list[str]) -> str:
    """The first line of a text, if it is separate and not a sentence.

    It may end with a full stop if it states nothing and a blank line follows.
    """
    first, *rest = text.strip().split("\n", 1)
    first = first.strip().lstrip("#").strip()
    alone = bool(rest and lines) and lines[0].lstrip("#").strip() == first
    if not alone or not first or len(words(first)) > TITLE:
        return ""
    if first[-1] == "." and not rest[0].split("\n", 1)[0].strip() and len(lines) > 2:
        own = words(first)[0].text
        told = (finite(own) and not noun(own)) or any(statements(first, ""))
        return "" if told else first.rstrip(".")
    return first if first[-1] not in ".!?;," else ""


def subject(title: str, body: list[str]) -> str:
    """The subject of a text, as a phrase for questions: from its title, else its first names."""
    if title:
        parts = [part.strip() for part in re.split(r"[,;:(\u2013]| - ", title)]
        phrase = parts[0]
        if parts[1:2] > [""] and ALONE.match(phrase):
            phrase = VERB.split(parts[1])[0]
        phrase = TEXTS.sub("", phrase)
    else:
        phrase = _first_names(body)
    if phrase[:4].lower() == "the ":
        return "the " + phrase[4:]
    low = phrase[:1].lower() + phrase[1:]
    whole = " ".join(body)
    if phrase not in whole and (short := _as_called(phrase, whole)):
        return f"the {short}"
    for begin in ("The ", "the "):
        if begin + phrase in whole or begin + low in whole:
            return "the " + (low if low in whole and phrase not in whole else phrase)
    first, last = phrase.split()[:1] or [""], phrase.split()[-1:] or [""]
    if re.search(rf"(?<!\b[Tt]he )\b{re.escape(first[0])}\b", whole):
        return phrase  # "Ysolde and the bear", where Ysolde has no article
    if title and last[0].islower() and re.search(rf"\b[Tt]he {re.escape(last[0])}\b", whole):
        return f"the {phrase}"
    return phrase


def _as_called(phrase: str, whole: str) -> str:
    """The names that a phrase begins with, if the text calls its subject so: "the Wren 4 stops".

    "" if it does not, or if there is only one name: that may be of something else.
    """
    own = words(phrase)
    count = next((n for n, word in enumerate(own) if not (word.named or word.counts)), len(own))
    short = phrase[: own[count - 1].end] if 1 < count < len(own) else ""
    if not short:
        return ""
    for match in re.finditer(rf"\b[Tt]he {re.escape(short)}\b", whole):
        after = words(whole[match.end() :])[:1]
        if not after or after[0].low in STOP or finite(after[0].text):
            return short
    return ""


def _first_names(body: list[str]) -> str:
    """The first run of names in a text, else its first content words."""
    for line in body:
        own = words(line)
        run: list[str] = []
        for number, word in enumerate(own):
            known = word.named and word.low not in UNNAMED and (number > 0 or len(own) < 2)
            follows = number == 0 and word.named and len(own) > 1 and own[1].named
            if known or (run and word.counts) or (follows and word.low not in UNNAMED):
                run.append(word.text)
            elif run:
                break
        if run:
            return " ".join(run)
    telling = [word.text for line in body[:1] for word in words(line) if word.tells]
    return " ".join(telling[:3])
