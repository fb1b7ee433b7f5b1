"""Whether a sentence corrects one of an earlier document, or says that it still holds."""

import re

from nestling.continual.study.words import telling, words

# says that what an earlier text told still holds: "A visit in the night costs what it did."
AS_BEFORE = re.compile(
    r"\b(unchanged|(stay|remain)s?( just)? (the same|as (it|they) (is|are|was|were))"
    r"|costs? what (it|they) did)\b",
    re.IGNORECASE,
)
HEADING = re.compile(r"^[^:.!?]+:\s+(?=[A-Z])")  # In the hot room: The stove is kept at 84 degrees.
SAID = 0.6  # of the content words of a sentence, in one that says the same with another value
# what a correction says to leave: for "22 times" read, replace walnut oil by, not 412 but
LEFT = re.compile(
    r"""\bfor\s+["\u201c]([^"\u201d]+)["\u201d]\s+read\b
    | \breplaced?\s+(\S+(?:\s\S+){0,3}?)\s+(?:by|with)\b
    | \bnot\s+(\S+(?:\s\S+){0,2}?)\s+but\b
    | \b(?:no\ longer|instead\ of|rather\ than|(?<=,\ )not)
      \s+(\S+(?:\s\S+){0,2}?)(?=[,.;]|\sand\b|$)""",
    re.IGNORECASE | re.VERBOSE,
)
CHANGES = re.compile(r"\b(now|but|not|no longer|instead|except)\b", re.IGNORECASE)


def corrects(later: str, sentence: str, question: str, about: str) -> bool:
    """Whether a later sentence says the same as another with another value, for a question.

    It has most content words of the other, numbers, names, its heading and the subject ``about``
    apart, and another number or name; or it says that something in the other, beyond what the
    question names, is to be left.

    >>> told, asked = "Heating: The hall is kept at 21 degrees.", "How warm is the hall?"
    >>> corrects("Now the hall is kept at 19 degrees.", told, asked, "the Osk hut")
    True
    >>> corrects("The hall is kept locked at night.", told, asked, "the Osk hut")
    False
    >>> corrects('Section 2: for "21 degrees" read "19 degrees".', told, asked, "the Osk hut")
    True
    """
    there, asked = set(telling(sentence)), set(telling(question))
    for match in LEFT.finditer(later):
        left = set(telling(next(filter(None, match.groups()))))
        if left and left <= there and not left <= asked:
            return True
    subject = set(telling(about))
    said, values = _parts(HEADING.sub("", sentence), subject)
    _, others = _parts(later, subject)
    alike = len(said.intersection(telling(later))) >= SAID * len(said)
    return len(said) > 1 and alike and bool(values and others - values)


def _parts(sentence: str, subject: set[str]) -> tuple[set[str], set[str]]:
    """The content words of a sentence beyond its subject: plain ones, and numbers and names."""
    own = [word for word in words(sentence) if word.tells and word.low not in subject]
    values = {word.low for word in own if word.counts or (word.named and word.begin != 0)}
    return {word.low for word in own} - values, values


def as_before(sentence: str) -> bool:
    """Whether a sentence says that something is as before, and nothing new.

    >>> as_before("The hours stay as they were."), as_before("It is unchanged, but paid in May.")
    (True, False)
    """
    return bool(AS_BEFORE.search(sentence)) and not CHANGES.search(sentence)
