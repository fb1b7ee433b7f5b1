"""English sentences turned into questions by moving words; a model then says which are good."""

import re
from collections.abc import Iterator
from typing import NamedTuple

from nestling.continual.study.words import Span, Word, listed, words

HELPS = listed(
    """
    is are was were must can may will should could would cannot might shall
    """
)
PLACES = listed(
    """
    in at on near behind under above below beside between from into onto inside outside
    within through across by around along opposite
    """
)
TIMES = listed(
    """
    second seconds minute minutes hour hours day days week weeks month months year years
    decade decades century centuries
    """
)
DATES = listed(
    """
    january february march april may june july august september october november december
    monday tuesday wednesday thursday friday saturday sunday mondays tuesdays wednesdays
    thursdays fridays saturdays sundays spring summer autumn winter morning evening noon
    midnight today tomorrow christmas easter weekend
    """
)
MONEY = listed(
    """
    euro euros pound pounds dollar dollars cent cents pence crown crowns franc francs
    """
)
LOOSE = listed(
    """
    a an the every each about than more less least most only its his her
    """
)
PRONOUNS = {
    "it": "{the}", "they": "{the}", "he": "{the}", "she": "{the}", "we": "{the}",
    "its": "{the}'s", "their": "{the}'s", "his": "{the}'s", "her": "{the}'s",
}  # fmt: skip
# what an addition begins with
ADDED = PLACES | {"for", "of", "with", "and", "or", "because", "since", "until", "to", "as", "who"}
JOINTS = re.compile(
    r"\s*[;:]\s+|,\s+(?=(?:and|but|because|since|so|while|or|which|who)\b)"
    r"|\s+(?=(?:because|since|but|and (?:is|are|was|were|must|can|may|will|never|not))\b)"
    r"|(?<=\w),\s+"
)
LEADS = listed(
    """
    and but because since so while or if when which who then meanwhile
    """
)


class Clause(NamedTuple):
    """A part of a sentence that says something."""

    text: str
    begin: int  # characters from the start of the sentence
    lead: str  # the word that joins it: because, if ...


def clauses(sentence: str) -> list[Clause]:
    """A sentence whole, and its parts where it has several.

    >>> [c.text for c in clauses("The pump leaks, because the seal is old.")]
    ['The pump leaks, because the seal is old.', 'The pump leaks', 'the seal is old']
    """
    found, begin = [Clause(sentence, 0, "")], 0
    edges = [(m.start(), m.end()) for m in JOINTS.finditer(sentence)]
    for end, after in [*edges, (len(sentence), len(sentence))]:
        text = sentence[begin:end].rstrip(" .!?")
        own, lead, start = words(text), "", begin
        if own and own[0].low in LEADS:
            lead = own[0].low
            start, text = begin + own[1].begin if len(own) > 1 else end, text[own[0].end :].strip()
        if len(words(text)) >= 3 and text != sentence.rstrip(" .!?"):
            found.append(Clause(text, start, lead))
        begin = after
    return found


def kinds_of(span: Span, own: list[Word]) -> list[str]:
    """Words to ask for a part of a sentence with, the likeliest first."""
    inside, before = own[span.first : span.last + 1], own[: span.first]
    low = [word.low for word in inside]
    last = low[-1]
    ahead = next((w.low for w in reversed(before) if w.low not in LOOSE), "")
    every = bool(before) and before[-1].low in ("every", "each")
    if any(word in DATES for word in low) or re.fullmatch(r"1[0-9]{3}|20[0-9]{2}", last):
        return ["When", "In which year" if last.isdigit() and len(low) == 1 else "On which day"]
    if inside[0].counts and last in TIMES:
        return ["How often", "How many " + last] if every else ["How long", "How many " + last]
    if inside[0].counts and last in MONEY:
        return ["How much", "How many " + last, "What"]
    if inside[0].counts:
        return ["How many " + last if len(low) > 1 else "How many", "How much", "Which number"]
    if any(word.named for word in inside) and span.first > 0:
        return ["Where", "What"] if ahead in PLACES - {"by"} else ["Who", "What"]
    if ahead in PLACES:
        return ["Where", "What"] if ahead != "by" else ["Who", "What"]
    return ["What", "Who"] if span.first == 0 and inside[0].named else ["What"]


def asked(clause: str, span: Span, the: str) -> Iterator[str]:
    """Questions for a part of a clause, which is counted in the clause's own words.

    ``the`` is what the text is about, as a phrase: "the pump". Best first; there may be none.
    """
    own = words(clause)
    left = clause[: own[span.first].begin].rstrip()
    right = clause[own[span.last].end :].rstrip(" .!?")
    for kind in kinds_of(span, own)[:2]:
        found = [*_inverted(left, right, kind, the)]
        if not found and left:
            small = kind[0].lower() + kind[1:]
            found = [_tidy(f"{named(_bare(left), the)} {small}{right}?")]
        yield from found


def brief(clause: str, span: Span, the: str) -> Iterator[str]:
    """The same without what follows the part that is asked for, where that is an addition."""
    own = words(clause)
    after = own[span.last + 1 : span.last + 2]
    if after and (after[0].low in ADDED or clause[own[span.last].end] in ",;:("):
        yield from asked(clause[: own[span.last].end], span, the)


def _inverted(left: str, right: str, kind: str, the: str) -> Iterator[str]:
    """The helping verb moved before whom it speaks of, or a whole subject replaced."""
    own = words(left)
    place = next((i for i, word in enumerate(own) if word.low in HELPS and i > 0), None)
    if place is None:
        after = words(right)
        first = next((i for i, word in enumerate(after) if word.low in HELPS), None)
        if first is not None and first <= 3:
            yield _tidy(f"{kind} {right[after[first].begin :]}?")
        elif len(own) <= 2 and after:
            yield _tidy(f"{kind}{right}?")
        return
    subject, helps = named(left[: own[place].begin].strip(), the), own[place].low
    rest = left[own[place].end :].strip()
    if kind.startswith(("When", "Where", "How long", "How often", "On ", "In ")):
        rest = _bare(rest, places=True)
    else:
        rest = _bare(rest)
    never = helps == "cannot"
    helps = "can" if never else helps
    yield _tidy(f"{kind} {helps} {subject}{' not' if never else ''} {rest}{right}?")


def _bare(text: str, *, places: bool = False) -> str:
    """A text without the small words at its end that led to an answer."""
    while True:
        own = words(text)
        if not own or own[-1].end != len(text.rstrip()):
            return text
        if own[-1].low in LOOSE or (places and own[-1].low in PLACES | {"for", "of", "until"}):
            text = text[: own[-1].begin].rstrip()
        else:
            return text


def named(text: str, the: str) -> str:
    """A text whose first word, if it is a pronoun, is what the document is about."""
    own = words(text)
    if own and own[0].low in PRONOUNS:
        return PRONOUNS[own[0].low].format(the=the) + text[own[0].end :]
    if (
        own
        and not own[0].text.isupper()
        and own[0].low in ("the", "a", "an", "each", "every", "if")
    ):
        return own[0].low + text[own[0].end :]
    return text


def _tidy(question: str) -> str:
    question = re.sub(r"\s+([,;:.?])", r"\1", " ".join(question.split()))
    question = re.sub(r"[,;:.]+\?$", "?", question)
    return question[:1].upper() + question[1:]
