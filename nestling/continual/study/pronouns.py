"""Which sentences of a passage mean its subject by a pronoun, so that it may be put in its place.

A wrong name is worse than a pronoun: the model would learn, and say, what the text does not.

Source: rules of agreement and recency as in Hobbs 1978, "Resolving pronoun references". Deviates:
only the pronoun that begins a sentence, and only the subject of the document, are considered.
"""

import re
from collections.abc import Sequence

from nestling.continual.study.words import Word, words

# pronouns by the kind of what they stand for; "we" is the writer
KIND = {
    "he": "he", "his": "he", "she": "she", "her": "she", "it": "it", "its": "it",
    "they": "they", "their": "they", "we": "we",
}  # fmt: skip
# "at fifteen he went", "with his wife, the painter Rosa, he had": a pronoun is the subject after a
# few words
EARLY = re.compile(
    r"^((?:there|then|here|later|in|on|at|after|before|every|each|during|for|with)"
    r"(?:\s+(?!and\b)[\w'-]+){0,4}(?:,\s(?:the|an?|his|her)(?:\s[\w'-]+){1,4}(?=,))?),?"
    r"\s+((?:he|she|it|they|we)\s.+)$",
    re.I,
)
# "it was decided to object": the pronoun stands for nothing
EMPTY = re.compile(
    r"""^it\s+(?:is|was|has\s+been|will\s+be|would\s+be|may\s+be)\s+(?:not\s+|\w+ly\s+)?
    (?:decided|agreed|resolved|noted|proposed|suggested|hoped|said|thought|feared|planned|found
    |possible|impossible|necessary|important|likely|unlikely|advisable|best|better|worth|time)\b""",
    re.I | re.VERBOSE,
)


# titles of persons, by the pronoun that stands for them
TITLES = {
    "mr": "he", "sir": "he", "lord": "he", "mrs": "she", "ms": "she", "miss": "she", "lady": "she",
}  # fmt: skip


def refers_to_subject(sentences: Sequence[str], about: str) -> list[bool]:
    """Whether the pronoun that begins each sentence may be the subject; True without a pronoun.

    It is of the kind that the subject has in these sentences, the rest of the sentence does not
    name the subject, "it" and "they" do not follow a sentence about something else, nor "he" and
    "she" one that names another such person ("our reader Mr Bisley").

    >>> told = ["The kiln is new.", "It was built by Ada.", "She was paid in soap."]
    >>> refers_to_subject(told, "the kiln")
    [True, True, False]
    """
    kinds = [_kind(sentence) for sentence in sentences]
    own = _of_subject(kinds, about)
    found = []
    for number, kind in enumerate(kinds):
        fits = kind in ("", own) and not (kind and _named_in(sentences[number], about))
        if kind in ("it", "they") and number > 0 and _about_another(sentences[number - 1], about):
            fits = False
        if number > 0 and kind in _persons(sentences[number - 1], about):
            fits = False
        found.append(fits)
    return found


POINTS = ("this", "these", "those")


def depends(sentences: Sequence[str], subjects: Sequence[str]) -> list[bool]:
    """Whether each sentence begins with a word for something in the sentence before it.

    ``subjects`` are what a pronoun at the beginning of each may stand for; "" if it is not known.

    >>> depends(["Remove the tide table.", "It was wrong.", "This was known."], ["the app", "", ""])
    [False, True, True]
    """
    found = []
    for number, (sentence, subject) in enumerate(zip(sentences, subjects, strict=True)):
        first = next((word.low for word in words(sentence)), "")
        means = not subject and _kind(sentence) in ("he", "she", "it", "they")
        found.append(number > 0 and (first in POINTS or means))
    return found


def _named_in(sentence: str, about: str) -> bool:
    """Whether the last word of a subject is in a sentence: "She led the camel home"."""
    own = words(about.split(" that ")[0].split(" of ")[0])
    return bool(own) and any(word.low == own[-1].low for word in words(sentence)[1:])


def _kind(sentence: str) -> str:
    """The kind of the pronoun that begins a sentence, alone or after a few words; "" without."""
    match = EARLY.match(sentence)
    own = words(match[2] if match else sentence)
    if not own or EMPTY.match(sentence):
        return "nothing" if own else ""
    return KIND.get(own[0].low, "")


def _of_subject(kinds: Sequence[str], about: str) -> str:
    """The kind of the subject: the most frequent, the first of several; persons before things."""
    if " and " in about:
        return "they"
    several = about.endswith("s")
    could = [kind for kind in kinds if kind in ("he", "she", "it") or (kind == "they" and several)]
    bare = about.removeprefix("the ")
    if bare == about and all(word.named for word in words(bare)):
        could = [kind for kind in could if kind in ("he", "she")] or could
    return max(could, key=could.count, default="")


def _persons(sentence: str, about: str) -> set[str]:
    """The pronouns of persons named by a title in a sentence that are not the subject.

    >>> _persons("Our reader Mr Bisley wrote to Mrs Tam.", "Nell Tam")
    {'he'}
    """
    own, subject = words(sentence), {word.low for word in words(about)}
    return {
        TITLES[word.low]
        for word, name in zip(own, own[1:], strict=False)
        if word.low in TITLES and name.named and name.low not in subject
    }


def _about_another(sentence: str, about: str) -> bool:
    """Whether a sentence begins with something other than the subject: "The roof leaks."."""
    own: list[Word] = words(sentence)
    if own and own[0].low in ("nobody", "somebody", "someone", "everybody", "everyone"):
        return True
    if not own or own[0].low not in ("the", "a", "an", "this", "that", "these", "those"):
        return False
    subject = {word.low for word in words(about)}
    return not any(word.low in subject for word in own[1:4])
