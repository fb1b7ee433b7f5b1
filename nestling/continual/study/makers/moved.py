"""Questions about English statements, with a part replaced by a question word."""

import re
from collections.abc import Iterator

from nestling.continual.study.english import (
    ADDED,
    LOOSE,
    bare,
    ends_early,
    in_place,
    kinds_of,
    named,
    ranged,
    tidy,
)
from nestling.continual.study.material import Maker, Place, Question
from nestling.continual.study.sentence import replies
from nestling.continual.study.statement import OPENS, Statement, statements, subject_of
from nestling.continual.study.verbs import active, finite, noun, past, third
from nestling.continual.study.words import ADVERBS, Span, listed, spans, with_article, words

BEFORE_DONE = listed(
    """
    he she it they we is are was were be been has have had
    """
)
BE = listed("is are was were")
ALONE = 3  # words of a question, at least
IF = (
    "What happens if {condition}?",
    "What does it mean when {condition}?",
    "What should one do if {condition}?",
)


class Moved(Maker):
    """Asks for each number, name and content word of a statement, for reasons and conditions.

    Source: overgenerate and rank (Heilman and Smith, NAACL 2010). Deviates: no parser.
    """

    def make(self, place: Place) -> list[Question]:
        """The questions, shorter forms first; none contains its own answer."""
        found: dict[Question, None] = {}
        passage = place.passage
        rows = zip(passage.sentences, passage.subjects, replies(passage), strict=True)
        for number, (sentence, about, reply) in enumerate(rows):
            made = [
                one for told in statements(sentence, about) for one in questions(told, about)
            ] or in_place(sentence, about)
            for question, answer in made:
                begin = sentence.lower().find(answer.lower())
                own = sentence[begin : begin + len(answer)]
                asks = not own or own.lower() not in question.lower()
                if begin >= 0 and asks and len(words(question)) >= ALONE:
                    found[Question(question, own, reply, "moved", number)] = None
        return list(found)


def questions(statement: Statement, about: str) -> Iterator[tuple[str, str]]:
    """Yield (question, answer); an answer of "" means that the reply is the whole sentence."""
    condition = named(statement.condition, about)
    end = f" if {condition}" if condition else ""
    for span in _parts(statement):
        if _fit(statement, span):
            answer = with_article(statement.text, span)
            for question in dict.fromkeys(_about_span(statement, span, end)):
                yield question, answer
            if kind := _kind(statement, span):
                yield f"What is {kind}?", answer
    if condition:
        for form in IF:
            yield form.format(condition=condition), ""
        yield tidy(f"When {_turned(statement)}?"), statement.condition
    if statement.reason:
        yield tidy(f"Why {_turned(statement)}?"), statement.reason


def _kind(statement: Statement, span: Span) -> str:
    """A phrase for a name or number and what it belongs to: the number of spare seals."""
    own, place = words(statement.text), statement.verb.place
    before, first = own[span.first - 1], own[span.first]
    fits = span.first - 1 > place and noun(before.text) and before.tells and not before.named
    if statement.request or not fits or not (first.named or first.counts):
        return ""
    if statement.text[before.end : first.begin].strip():
        return ""
    return f"the {before.low} of {named(subject_of(statement), '')}"


def _parts(statement: Statement) -> Iterator[Span]:
    """Yield the parts that may be asked for, before and after the verb."""
    text, place = statement.text, statement.verb.place
    verb = words(text)[place]
    before = ranged(text[: verb.begin], spans(text[: verb.begin]))
    yield from before
    own = words(text)
    if before and _adjunct(statement, before[-1]) and not statement.request:
        first = 1 if own[0].low in OPENS else 0  # a boat from Rova
        yield Span(text[own[first].begin : own[place - 1].end], first, place - 1)
    after = text[verb.end :]
    for span in ranged(after, spans(after)):
        own = _without_verb(after, span)
        yield Span(own.text, own.first + place + 1, own.last + place + 1)


def _adjunct(statement: Statement, span: Span) -> bool:
    """Whether a part before the verb is only the end of the subject: the boat from Rova."""
    own = words(statement.text)
    ahead = next((w.low for w in reversed(own[: span.first]) if w.low not in LOOSE), "")
    return span.last < statement.verb.place and ahead in ADDED


def _without_verb(text: str, span: Span) -> Span:
    """A part without its initial participle: glass that he | called | ember glass."""
    own = words(text)
    before = own[span.first - 1].low if span.first else ""
    if span.first == span.last or before not in BEFORE_DONE or not past(own[span.first].text):
        return span
    return Span(text[own[span.first + 1].begin : own[span.last].end], span.first + 1, span.last)


def _fit(statement: Statement, span: Span) -> bool:
    """Whether a part can be asked for: it is not just a verb or adverb."""
    own = words(statement.text)
    alone = own[span.first]
    if all(word.low in ADVERBS for word in own[span.first : span.last + 1]):
        return False
    if span.first == span.last and not (alone.named or alone.counts or noun(alone.text)):
        behind = span.first > 0 and own[span.first - 1].low in ("be", "been", "is", "are", "was")
        return not behind and finite(alone.text) is None
    return True


def _about_span(statement: Statement, span: Span, end: str) -> Iterator[str]:
    own, text, verb = words(statement.text), statement.text, statement.verb
    kinds = kinds_of(span, own)[:2]
    if span.last < verb.place:
        yield from _about_subject(statement, span, kinds, end)
        return
    left = text[own[verb.place].end : own[span.first].begin]
    right = text[own[span.last].end :].removeprefix(".")  # of 8.30 a.m.
    shorter = [""] if ends_early(text, span) else []
    for kind in kinds:
        for rest in [*shorter, right]:
            yield tidy(f"{kind} {_asked(statement)} {bare(left, kind)}{rest}{end}?")
    if done := _done_by(statement, span, kinds):
        for rest in [*shorter, right]:
            yield tidy(f"{kinds[0]} {done}{rest}{end}?")


def _done_by(statement: Statement, span: Span, kinds: list[str]) -> str:
    """What the part after "by" does: "carries the skis" for "the skis are carried by Jan"."""
    own, verb = words(statement.text), statement.verb
    by = next(n for n in range(span.first - 1, -1, -1) if own[n].low not in OPENS)
    agent = own[by].low == "by" and (by < span.first - 1 or own[span.first].named)
    done = by == verb.place + 2 and past(own[verb.place + 1].text)
    if not (agent and done) or verb.helper not in BE or kinds[0] not in ("Who", "What"):
        return ""
    return f"{active(own[verb.place + 1].text, verb.helper)} {subject_of(statement)}"


def _about_subject(statement: Statement, span: Span, kinds: list[str], end: str) -> Iterator[str]:
    own, text, verb = words(statement.text), statement.text, statement.verb
    if statement.request or span.last != verb.place - 1 or _adjunct(statement, span):
        return
    said = own[verb.place].text
    if verb.helper == "do":
        said = third(verb.bare or verb.helper)  # "pens do not leak" has only the auxiliary
    after = text[own[verb.place].end :]
    for rest in dict.fromkeys([re.split(r"[,;:](?=\s|$)", after)[0], after]):
        done = f"{said}{rest}{end}"
        if own[span.first].counts and not own[span.first].ranks:
            what = " ".join(word.text for word in own[span.first + 1 : verb.place])
            yield tidy(f"How many {what} {done}?")
            yield tidy(f"Which {span.text.lower()} {done}?")
        else:
            person = own[0].named and not noun(own[0].text) and span.first == 0
            for who in ("Who", "What") if person else ("Who" if kinds[0] == "Who" else "What",):
                yield tidy(f"{who} {done}?")


def _asked(statement: Statement) -> str:
    """The start of a question, up to its verb: "does the pump hold"."""
    helper, plain = statement.verb.helper, statement.verb.bare
    if statement.request:
        return f"{helper}{' never' if statement.never else ''} {plain}"
    return f"{helper} {subject_of(statement)} {plain}"


def _turned(statement: Statement) -> str:
    """A whole statement in the word order of a question for its reason."""
    own = words(statement.text)
    return f"{_asked(statement)}{statement.text[own[statement.verb.place].end :]}"
