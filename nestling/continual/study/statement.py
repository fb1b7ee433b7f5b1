"""Splits English sentences into statements with a subject and a verb, to make questions from.

There is no parser: a verb is a word that can be one, at a place where one can be. Wrong results
look odd to the model, which judges the questions.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

from nestling.continual.study.english import DATES, named
from nestling.continual.study.pronouns import EARLY
from nestling.continual.study.verbs import finite, noun, past
from nestling.continual.study.words import ADVERBS, Word, listed, words

HELPS = listed(
    """
    is are was were must can may will should could would cannot might shall has have had do
    does did
    """
)
# followed by a noun, or by a bare verb that is not the main verb
BEFORE_NOUNS = listed(
    """
    a an the its his her their every each of no my our your in on at for by with from to
    into under over near and or than as
    """
)
# first words of a noun phrase
OPENS = listed(
    """
    the a an his her its their our my
    """
)
# after a participle without its auxiliary: born in, made of
AFTER_DONE = listed(
    """
    in at by of from with on as to for into under near
    """
)
PLURALS = listed(
    """
    children people men women both all most some others police staff feet teeth mice geese
    you we they i these those
    """
)
OBJECTS = listed(
    """
    a an the it them up off down out one all any your its their her his every each no only
    for on in at with
    """
)
RELATIVE = listed("that which who what where")
CONDITION = re.compile(r"^(?:if|when|whenever)\s+(.+?),\s+(?:then\s+)?(.+)$", re.I)
LATE_CONDITION = re.compile(r"^(.+?),?\s+(?:if|when|whenever)\s+(.+)$")
REASON = re.compile(r"^(.+?),?\s+(?:because|since|as(?=\s(?:he|she|it|they|we|the)\s))\s+(\D.+)$")
LEAD = re.compile(
    r"^((?:once|twice|in|on|at|after|before|every|each|during|from|since|until)\s[^,]+),\s+(.+)$",
    re.I,
)
_DATE = rf"(?:the\s)?(?:\d{{1,2}}\s)?(?:{'|'.join(sorted(DATES))})(?:\s\d{{1,4}})?"
_PART = r"(?:\s(?:(?:morning|afternoon|evening|night)s?|day|eve))?"  # of a date
LEAD_DATE = re.compile(  # without a comma
    rf"^((?:from|since|until|on|in)\s{_DATE}(?:\s(?:to|until|till|and|or)\s{_DATE})?{_PART}"
    r"(?:\s(?:on|onwards))?)\s(?!(?:and|or|to|until|till)\b)(\D.+)$",
    re.I,
)
# what no longer holds, beside what does
DENIED = re.compile(
    r"(?:,\s+(?:and\s+)?(?:not|no longer)|,?\s+(?:instead of|rather than))\s(?:[^,;:]|:\b)+$",
    re.I,
)
INSTEAD = re.compile(r"^(?:instead of|rather than)\s[^,]+,\s+", re.I)
NOW = re.compile(
    r"(?<!until )(?<!till )(?<!by )(?<!right )(?<!just )(?<!from )\bnow\s+(?!that\b)(?=\w)", re.I
)
THEN = re.compile(r"(,?\s+(?:and|but|so|while)\s+)")
ONE = re.compile(r"^((?:the|an?)\s+[\w'-]+|this|that|another|each)\s+one\b", re.I)
JOINTS = re.compile(r"(\s*[;:]\s+|,?\s+(?:and|but|so|while)\s+|,\s+(?:which|who)\s+|,\s+)")


class Verb(NamedTuple):
    """The verb of a statement, and its forms in a question."""

    place: int  # index among the words of the statement
    helper: str  # before the subject of a question: must, does
    bare: str = ""  # after it, instead of the verb: hold for holds; "" if none


class Statement(NamedTuple):
    """A clause that states something, or asks for something to be done."""

    text: str  # with its subject, without a full stop
    verb: Verb
    request: bool = False  # an imperative, without a subject
    never: bool = False  # a request not to do something
    condition: str = ""  # its condition, in the words of the sentence
    reason: str = ""  # its reason, in the words of the sentence


def statements(sentence: str, about: str) -> Iterator[Statement]:
    """Yield the statements of a sentence, if verbs are found; ``about`` replaces a pronoun.

    >>> [s.text for s in statements("It holds 340 litres and is filled with glycol.", "the pump")]
    ['the pump holds 340 litres', 'the pump is filled with glycol']
    """
    rest, condition, reason = _affirmed(NOW.sub("", sentence.rstrip(" .!?"))), "", ""
    if match := CONDITION.match(rest):
        condition, rest = match[1], match[2]
    match = REASON.match(rest)
    if match and _verb(words(match[2])):
        rest, reason = match[1], match[2]
    elif not condition and (match := LATE_CONDITION.match(rest)):
        rest, condition = match[1], match[2]
    for found in _joined(_led(rest), about):
        yield found._replace(condition=condition, reason=reason)


def _led(text: str) -> str:
    """A clause with the time or place it begins with after its verb."""
    match = LEAD.match(text) or LEAD_DATE.match(text) or EARLY.match(text)
    if not match:
        return text
    first, *others = THEN.split(match[2], maxsplit=1)
    return f"{first} {match[1][0].lower()}{match[1][1:]}{''.join(others)}"


def _affirmed(text: str) -> str:
    """A sentence without what it says is no longer so: "by Berta, no longer by Wim"."""
    text = INSTEAD.sub("", text)
    head = DENIED.sub("", text)
    return head if _verb(words(head)) else text


def _joined(text: str, about: str) -> Iterator[Statement]:
    """Yield parts with one verb each; a part without one belongs to the part before it."""
    pieces = JOINTS.split(text)
    parts, subject = [pieces[0]], ""
    for joint, piece in zip(pieces[1::2], pieces[2::2], strict=True):
        before = _statement(parts[-1].strip(), subject, about)
        if joint.strip() in (";", ":"):
            piece = _led(piece)
        if before is not None:
            piece = _with_noun(piece, before)
        goes_on = "" if before is None else _next_subject(before, joint, piece)
        if before is None and joint.strip() == ":" and _statement(piece.strip(), "", about):
            parts[-1] = piece  # "Correction: the bus leaves at six"
            continue
        if before is not None and joint.strip() == "," and (whom := _done_to(piece, before)):
            goes_on, piece = whom, f"{whom} was {piece}"
        if before is not None and _statement(piece.strip(), goes_on, about):
            subject = goes_on
            yield before
            parts.append(piece)
        else:
            parts[-1] += joint + piece
    last = _statement(parts[-1].strip(), subject, about)
    if last is not None:
        yield last


def _with_noun(piece: str, before: Statement) -> str:
    """A part that starts with "the last one", with the noun from the previous statement."""
    own = words(subject_of(before))
    if not own or own[-1].named or own[-1].counts or own[-1].low == "one":
        return piece
    return ONE.sub(lambda match: f"{match[1]} {own[-1].text}", piece)


def _next_subject(before: Statement, joint: str, piece: str = "") -> str:
    """The subject of the next part: the last noun of the previous one, or its subject."""
    if joint.strip()[:1] in (";", ":") and not piece.lower().startswith(("it ", "they ")):
        return ""
    own = words(before.text)
    if "who" in joint or "which" in joint:
        first = len(own)
        while first > before.verb.place + 1 and own[first - 1].named:
            first -= 1
        if first == len(own):
            first = max((n for n, o in enumerate(own) if o.low in OPENS), default=0)
        return before.text[own[first].begin :].strip() if first > before.verb.place else ""
    return subject_of(before)


def _done_to(piece: str, before: Statement) -> str:
    """The subject of a participle, as in "a baker, born in Rome"; "" if there is none."""
    own = words(piece)
    if len(own) < 2 or own[1].low not in AFTER_DONE or not past(own[0].text):
        return ""
    if before.verb.helper in ("is", "are", "was", "were"):
        return subject_of(before)
    return _next_subject(before, "who")


def subject_of(statement: Statement) -> str:
    """The words before the verb."""
    if statement.request:
        return ""
    return statement.text[: words(statement.text)[statement.verb.place].begin].strip()


def _statement(part: str, subject: str, about: str) -> Statement | None:
    own = words(part)
    if not own:
        return None
    if subject and own[0].low in ADVERBS and len(own) > 1:  # which | now | stands in
        part = part[own[1].begin :]
        own = words(part)
    if not subject and (asked := _request(part, own, about)):
        return asked
    first = finite(own[0].text)
    agrees = first is not None and (first[0] != "do" or subject.endswith("s"))
    agrees = agrees and not (noun(own[0].text) and _verb(own))
    if subject and own[0].low in ("he", "she", "it", "they"):
        part = f"{subject}{part[own[0].end :]}"
    elif subject and (own[0].low in HELPS or agrees) and _verb(own, helping=True) is None:
        part = f"{subject} {part[own[0].begin :]}"
    text = named(part, about)
    verb = _verb(words(text))
    return None if verb is None else Statement(text, verb)


def _request(part: str, own: list[Word], about: str) -> Statement | None:
    """A request: a bare verb at the start, with an object."""
    place = 1 if own[0].low in ("never", "always", "please", "do") else 0
    place += len(own) > place and own[place].low == "not"
    if len(own) < place + 2:
        return None
    after, found = own[place + 1], finite(own[place].text)
    if found is None or found[0] != "do" or not (after.low in OBJECTS or after.counts):
        return None
    if _helped(own[place + 1 :]):
        return None
    never = any(word.low in ("never", "not") for word in own[:place])
    end = own[place].end
    text = part[:end] + re.sub(r"\b(?:it|them)\b", about or "it", part[end:], count=1)
    return Statement(text, Verb(place, "should one", found[1]), request=True, never=never)


def _verb(own: list[Word], *, helping: bool = False) -> Verb | None:
    """The first verb: an auxiliary, or any word that can be a verb at its position."""
    for place in range(1, len(own)):
        word = own[place]
        if _helps(word):
            return Verb(place, "can" if word.low == "cannot" else word.low)
        if not helping and (found := _main(own, place)):
            return Verb(place, *found)
    return None


def _main(own: list[Word], place: int) -> tuple[str, str] | None:
    word, before = own[place], own[place - 1]
    found = None if word.named or word.counts else finite(word.text)
    if found is None or before.low in BEFORE_NOUNS:
        return None
    if found[0] != "did" and noun(word.text) and (before.counts or _verb_follows(own, place)):
        return None  # spare keys | hang, three tools | are
    if found[0] == "did" and any(map(_helps, own[place + 1 :])):
        return None  # the motor built by him | was
    if found[0] == "do" and noun(word.text) and _helped(own[place + 1 :]):
        return None  # boats with a red flag | must
    several = any(
        o.low in PLURALS or (o.low.endswith("s") and not o.low.endswith("'s") and noun(o.text))
        for o in own[:place]
    )
    return None if found[0] == "do" and not several else found


def _verb_follows(own: list[Word], place: int) -> bool:
    """Whether the next word is a verb and nothing else."""
    if place + 1 >= len(own):
        return False
    after = own[place + 1]
    return _helps(after) or (finite(after.text) is not None and not noun(after.text))


def _helps(word: Word) -> bool:
    """Whether a word is an auxiliary: may, but not May."""
    return word.low in HELPS and not word.month


def _helped(later: list[Word]) -> bool:
    """Whether an auxiliary follows that is not one of a relative clause."""
    return any(map(_helps, later)) and RELATIVE.isdisjoint(word.low for word in later)
