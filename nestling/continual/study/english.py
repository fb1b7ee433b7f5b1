"""English question words, and how to phrase a question about a part of a sentence."""

import re
from collections.abc import Iterator

from nestling.continual.study.verbs import noun
from nestling.continual.study.words import (
    STOP,
    Span,
    Word,
    listed,
    spans,
    with_article,
    words,
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
MONTHS = listed(
    """
    january february march april may june july august september october november december
    """
)
WEEKDAYS = listed(
    """
    monday tuesday wednesday thursday friday saturday sunday mondays tuesdays wednesdays
    thursdays fridays saturdays sundays weekend today tomorrow
    """
)
FEASTS = listed("christmas easter")
DATES = (
    MONTHS | WEEKDAYS | FEASTS | listed("spring summer autumn winter morning evening noon midnight")
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
# before a time of the day
AT = listed("at until till before after by from")
CLOCK = re.compile(r"\d{1,2}[:.]\d{2}")
TO = listed("to until till and")
RANGES = {("from", "to"), ("from", "until"), ("from", "till"), ("between", "and")}
DAYTIME = listed("a.m p.m am pm o'clock")
PRONOUNS = {
    "it": "{the}", "they": "{the}", "he": "{the}", "she": "{the}", "we": "{the}",
    "its": "{the}'s", "their": "{the}'s", "his": "{the}'s", "her": "{the}'s",
}  # fmt: skip
# first words of an adjunct
ADDED = PLACES | {"for", "of", "with", "and", "or", "because", "since", "until", "to", "as", "who"}


def kinds_of(span: Span, own: list[Word]) -> list[str]:
    """Question words for a part of a sentence, most likely first."""
    inside, before = own[span.first : span.last + 1], own[: span.first]
    low = [word.low for word in inside]
    last = low[-1]
    ahead = next((w.low for w in reversed(before) if w.low not in LOOSE), "")
    every = bool(before) and before[-1].low in ("every", "each")
    if any(word in DATES for word in low) or re.fullmatch(r"1[0-9]{3}|20[0-9]{2}", last):
        return ["When", "In which year" if last.isdigit() and len(low) == 1 else "On which day"]
    if _daytime(low, ahead) and inside[0].counts:
        return ["When", "At what time"]
    if len(low) == 3 and low[1] in TO and inside[0].counts and inside[2].counts:
        return ["When", "How many"]  # from nine to five
    if inside[0].ranks:
        return ["Where", "What"] if ahead in PLACES else ["What"]
    if inside[0].counts and last in TIMES:
        return ["How often", "How many " + last] if every else ["How long", "How many " + last]
    if inside[0].counts and last in MONEY:
        return ["How much", "How many " + last, "What"]
    if inside[0].counts and len(low) > 1:
        counted = low[: low.index("of")] if "of" in low[1:] else low
        return ["How many " + counted[-1], "What"]
    if inside[0].counts:
        return ["How many", "How much", "Which number"]
    if any(word.named for word in inside) and span.first > 0:
        return ["Where", "What"] if ahead in PLACES - {"by"} else ["Who", "What"]
    if ahead in PLACES:
        return ["Where", "What"] if ahead != "by" else ["Who", "What"]
    return ["What", "Who"] if span.first == 0 and inside[0].named else ["What"]


def _daytime(low: list[str], ahead: str) -> bool:
    """Whether a number is a time of the day: 5:50, nine o'clock, and nine after "at"."""
    if len(low) > 1:  # also 9.30 to 17.30
        return low[-1] in DAYTIME or bool(low[1] in TO and CLOCK.fullmatch(low[0]))
    clock = CLOCK.fullmatch(low[0])
    return bool(clock and (":" in low[0] or ahead in AT)) or (
        ahead == "at" and (not low[0].isdigit() or int(low[0]) <= 24) and "." not in low[0]
    )


def ranged(text: str, found: list[Span]) -> list[Span]:
    """Spans of a text, with the ends of a range of numbers or times as one.

    >>> [span.text for span in ranged("from nine to five", spans("from nine to five"))]
    ['nine to five']
    """
    own = words(text)
    points = [span for span in found if own[span.first].counts or own[span.first].low in DATES]
    for begin in points:
        for end in points:
            if begin.first == 0 or end.first != begin.last + 2:
                continue
            if (own[begin.first - 1].low, own[end.first - 1].low) in RANGES:
                whole = text[own[begin.first].begin : own[end.last].end]
                found = [one for one in found if one not in (begin, end)]
                found.append(Span(whole, begin.first, end.last))
    return found


def in_place(sentence: str, the: str) -> Iterator[tuple[str, str]]:
    """Yield (question, answer) in the order of a sentence, for sentences without a known verb."""
    own = words(sentence)
    for span in spans(sentence):
        left = bare(sentence[: own[span.first].begin])
        kind = kinds_of(span, own)[0]
        begin = f"{named(left, the)} {kind[0].lower()}{kind[1:]}" if words(left) else kind
        if span.last - span.first + 1 < len(own):
            yield tidy(f"{begin}{sentence[own[span.last].end :]}?"), with_article(sentence, span)


def ends_early(text: str, span: Span) -> bool:
    """Whether the text after a part is an adjunct, which may be left out."""
    own = words(text)
    after = own[span.last + 1 : span.last + 2]
    return bool(after) and (after[0].low in ADDED or text[own[span.last].end] in ",;:(")


def bare(text: str, kind: str = "") -> str:
    """Drop the function words at the end of a text that led to an answer.

    For "where" and "when", prepositions of place and time are dropped as well.
    """
    far = kind.startswith(("When", "Where", "How long", "How often", "On ", "In ", "At "))
    small = LOOSE | PLACES | {"for", "of", "until"} if far else LOOSE
    while (own := words(text)) and own[-1].end == len(text.rstrip()) and own[-1].low in small:
        text = text[: own[-1].begin].rstrip()
    return text


def named(text: str, the: str) -> str:
    """A text for use within a sentence, with an initial pronoun replaced by the subject.

    >>> named("Its seal leaks.", "the pump"), named("A seal leaks.", "the pump"), named("I am.", "")
    ("the pump's seal leaks.", 'a seal leaks.', 'I am.')
    """
    own = words(text)
    if not own or own[0].text.isupper() and len(own[0].text) > 1:
        return text
    if the and own[0].low in PRONOUNS:
        return PRONOUNS[own[0].low].format(the=the) + text[own[0].end :]
    if own[0].text == "I":
        return text
    proper = len(own) > 1 and own[1].named
    small = own[0].low in STOP or (not proper and (own[0].counts or noun(own[0].text)))
    return own[0].low + text[own[0].end :] if small else text


def tidy(question: str) -> str:
    """Normalise a question: single spaces, and one question mark at the end."""
    question = re.sub(r"\s+([,;:.?])", r"\1", " ".join(question.split()))
    question = re.sub(r"[,;:.]+\?$", "?", question)
    return question[:1].upper() + question[1:]
