"""Letters: the greeting and the close are no sentences, but say who writes to whom."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from nestling.continual.study.words import STOP, words

GREETING = re.compile(r"^(?:dear|hello|hi|good\s+(?:morning|day|evening))\b[^.?]*[,!:]?$", re.I)
# "With love and thanks,", "Yours sincerely, Ida Holm", "Best wishes from"
CLOSE = re.compile(
    r"""^(?:(?:with\s+)?(?:my\s+|our\s+|all\s+my\s+|much\s+|many\s+)?
    (?:(?:very\s+)?(?:kind|kindest|best|warm|warmest|good)\s+(?:wishes|regards|greetings)
    | love | thanks | regards | greetings)
    | (?:ever\s+)?yours | sincerely | all\s+the\s+best | thank\s+you | cheers | take\s+care)
    \b(?!\s+for\b)""",
    re.IGNORECASE | re.VERBOSE,
)
SHORT = 7  # words of a greeting or of a line of the close, at most
LINES = 4  # of a close, at most
NONE = STOP | {
    "dear", "hello", "hi", "good", "morning", "evening", "love", "yours", "thanks", "thank", "best",
    "kind", "warm", "ps", "regards", "wishes", "greetings", "cheers", "sincerely", "take", "care",
    "all", "many", "much", "ever",
}  # fmt: skip


class Letter(NamedTuple):
    """The sentences of a letter, and what it is called."""

    body: list[str]
    about: str


def letter(lines: Sequence[str]) -> Letter | None:
    """A text as a letter; None if it does not begin with a greeting and end with a name.

    What stands below the name, such as a postscript, belongs to the body.

    >>> letter(["Dear Ida,", "The harp is mended.", "With love,", "your Aunt Rosa"])
    Letter(body=['The harp is mended.'], about='the letter from Aunt Rosa to Ida')
    """
    if len(lines) < 3 or not GREETING.match(lines[0]) or len(words(lines[0])) > SHORT:
        return None
    reader = _name(lines[0])
    for begin in range(len(lines) - 1, 1, -1):
        if not (CLOSE.match(lines[begin]) and _short(lines[begin])):
            continue
        for end in range(begin, min(begin + LINES, len(lines))):
            writer = _name(lines[end])
            if not _short(lines[end]):
                break
            if writer and writer != reader:
                about = f"the letter from {writer}" + (f" to {reader}" if reader else "")
                return Letter([*lines[1:begin], *lines[end + 1 :]], about)
    return None


def _short(line: str) -> bool:
    return 0 < len(words(line)) <= SHORT and line.rstrip()[-1] not in ".!?;:"


def _name(line: str) -> str:
    """The last run of names in a line."""
    found: list[str] = []
    for number, word in enumerate(words(line)):
        if word.named and word.low not in NONE:
            after = found and words(line)[number - 1].text == found[-1]
            found = [*found, word.text] if after else [word.text]
    return " ".join(found)
