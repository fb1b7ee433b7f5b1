"""What an English question asks for, and whether a sentence has something of the kind.

Source: the types of answers of question answering (Li and Roth 2002, "Learning question
classifiers"). Deviates: a few rules in place of a classifier; what no rule knows, any sentence has.
"""

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from nestling.continual.study.english import DATES, FEASTS, MONEY, MONTHS, TIMES, WEEKDAYS
from nestling.continual.study.verbs import forms_of
from nestling.continual.study.words import Word, listed, words

A_YEAR = re.compile(r"1\d{3}|20\d{2}")
OF_DAYS = listed("weekends weekday weekdays yesterday daily")
OFTEN = listed("daily weekly monthly yearly once twice fortnight")
PAID = MONEY | listed(
    """
    shilling shillings penny pennies yen cost costs price prices priced paid pay pays fee fees
    charge charged charges sold worth free nothing
    """
)
WEIGHTS = listed(
    """
    gram grams kilogram kilograms kilo kilos kg pound pounds ounce ounces ton tons tonne tonnes
    stone weigh weighs weighed weighing weight light heavy
    """
)
LENGTHS = listed(
    """
    mm cm m km metre metres meter meters centimetre centimetres centimeter centimeters millimetre
    millimetres millimeter millimeters kilometre kilometres kilometer kilometers mile miles foot
    feet inch inches yard yards
    """
)
VOLUMES = listed(
    """
    l ml litre litres liter liters millilitre millilitres milliliter milliliters gallon gallons
    pint pints cup cups spoon spoons teaspoon teaspoons tablespoon tablespoons tsp tbsp drop drops
    """
)
CLOCKED = TIMES | listed("sec min mins h hr hrs fortnight quarter half winters summers")
POWERS = listed("w kw watt watts kilowatt kilowatts")
DEGREES = listed("degree degrees celsius fahrenheit")
UNITS = (LENGTHS, VOLUMES, WEIGHTS | MONEY, CLOCKED, POWERS, DEGREES)  # "pound" is in two of them
COLOURS = listed(
    """
    red blue green yellow white black brown grey gray orange purple pink violet gold golden silver
    copper turquoise crimson scarlet beige cream amber bronze ivory indigo lilac maroon navy olive
    ochre rust teal dark pale light colour colours color colors coloured colored colourless
    """
)
COUNTED = re.compile(r"\bhow many ([^\W\d_]+)", re.IGNORECASE)
LONG = 4  # digits of a telephone number, at least
ORDINALS = listed("first second third")
AGES = (TIMES - ORDINALS) | listed("old age aged born since birthday")


class Asked(NamedTuple):
    """A kind of question, and what tells that a sentence may answer it."""

    question: re.Pattern[str]
    fits: Callable[[Sequence[Word], frozenset[str]], bool]  # (sentence, words of the question)


def _has(some: frozenset[str]) -> Callable[[Sequence[Word], frozenset[str]], bool]:
    return lambda own, asked: any(word.low in some for word in own)


def _price(own: Sequence[Word], asked: frozenset[str]) -> bool:
    """A word of money, or a number that counts nothing: "First visit: 54"."""
    bare = [
        word
        for word, after in zip(own, [*own[1:], None], strict=True)
        if word.counts and not (after and after.tells) and not A_YEAR.fullmatch(word.text)
    ]
    return bool(bare) or any(word.low in PAID for word in own)


def _age(own: Sequence[Word], asked: frozenset[str]) -> bool:
    """A word of age, or a number at the end: "over sixteen"."""
    return any(word.low in AGES for word in own) or own[-1].counts


def _counts(own: Sequence[Word], asked: frozenset[str]) -> bool:
    """A number; neither an ordinal nor the first word of "One evening"."""
    once = own[0].low == "one" and any(word.low in DATES | TIMES for word in own[1:3])
    return any(word.counts and word.low not in ORDINALS for word in own[1 if once else 0 :])


def _year(own: Sequence[Word], asked: frozenset[str]) -> bool:
    return any(A_YEAR.fullmatch(word.text) for word in own)


def _time(own: Sequence[Word], asked: frozenset[str]) -> bool:
    return any(word.counts or word.low in DATES | TIMES | OFTEN for word in own)


def _day(own: Sequence[Word], asked: frozenset[str]) -> bool:
    """A day of the week or, unless that is asked for, a month, beside which a date has its day."""
    days = WEEKDAYS | OF_DAYS
    return any(word.low in (days if "week" in asked else days | MONTHS | FEASTS) for word in own)


def _digits(own: Sequence[Word], asked: frozenset[str]) -> bool:
    return any(sum(map(str.isdigit, word.text)) >= LONG for word in own)


def _measured(own: Sequence[Word], asked: frozenset[str]) -> bool:
    """A unit of the kind that the question counts: "How many minutes" may be answered in hours."""
    wanted = [group for group in UNITS if group & asked]
    return all(any(word.low in group for word in own) for group in wanted)


def new_name(own: Sequence[Word], asked: frozenset[str]) -> bool:
    """A name that the question does not have; the first word of a sentence may be one."""
    return any(word.named and word.tells and word.bare not in asked for word in own)


KINDS = (
    Asked(re.compile(r"\b(which|what) year\b", re.I), _year),
    Asked(re.compile(r"\bhow (heavy|much\b.*\bweigh)\b", re.I), _has(WEIGHTS)),
    Asked(re.compile(r"\bhow old\b", re.I), _age),
    Asked(
        re.compile(r"\b(what|how much)\b.*\b(costs?|price|fee|pays?|paid|charged?)\b", re.I),
        _price,
    ),
    Asked(
        re.compile(r"\bhow (many|much|old|far|high|tall|deep|heavy|wide|big|fast|large)\b", re.I),
        _counts,
    ),
    Asked(
        re.compile(
            r"^when\b|\bhow (long|often|soon)\b|\b(which|what) (time|day|date|month)\b", re.I
        ),
        _time,
    ),
    Asked(re.compile(r"\b(which|what) (day|date)\b", re.I), _day),
    Asked(re.compile(r"\b(which|what) month\b", re.I), _has(MONTHS)),
    Asked(re.compile(r"\b(which|what) colou?r\b", re.I), _has(COLOURS)),
    Asked(re.compile(r"\b(tele)?phone number\b", re.I), _digits),
    Asked(
        re.compile(rf"\bhow many ({'|'.join(sorted(frozenset().union(*UNITS)))})\b", re.I),
        _measured,
    ),
    Asked(
        re.compile(
            r"^(?!.*\bor\b).*\b(which|what) (town|city|village|country|island)"
            r"(?=\s*[?,]|\s+(is|was|are|were|did|does|do|has|have|had|can|will)\b)",
            re.I,
        ),
        new_name,
    ),
    Asked(
        re.compile(r"\bnames? of\b|\bwhat (is|was|are|were) .* (called|named)\b", re.I), new_name
    ),
)


def may_answer(question: str, sentence: str) -> bool:
    """Whether a sentence has what a question asks for, as far as that is known.

    >>> may_answer("How many geese are there?", "There are geese."), may_answer("Why?", "So.")
    (False, True)
    """
    own = words(sentence)
    if not own:
        return False
    asked = frozenset(word.bare for word in words(question))
    return all(kind.fits(own, asked) for kind in KINDS if kind.question.search(question))


def counted(question: str, sentence: str) -> bool:
    """Whether a sentence has a number with what a question asks the number of.

    The noun follows within three words: "How many pegs?", "eleven wooden pegs".

    >>> counted("How many cars fit?", "It holds at most eighteen cars."), counted("Who?", "A car.")
    (True, False)
    >>> counted("How many cars fit?", "A car costs 7 crowns.")
    False
    """
    own = words(sentence)
    for asked in COUNTED.findall(question):
        same = {asked.lower(), *forms_of(asked)}
        near = (own[n + 1 : n + 4] for n, word in enumerate(own) if word.counts)
        if any(word.low in same for after in near for word in after):
            return True
    return False
