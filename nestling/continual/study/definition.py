"""Definition questions: "What is X?", "Who was X?", "What is X for?", "Tell me about X".

They name a subject and nothing that a sentence about it could be matched with. If the subject is
that of a document, the answer is the sentence that introduces it, or what is recited of it in
order; if it is an unusual name within a document, the first sentence with the name.

Source: the definition questions of TREC 2003 (Voorhees, "Overview of the TREC 2003 question
answering track").
"""

import itertools
import re
from collections.abc import Sequence
from typing import NamedTuple

from nestling.continual.study.form import plain
from nestling.continual.study.record import Studied
from nestling.continual.study.words import Word, telling, words
from nestling.continual.text import Text

QUESTION = re.compile(
    r"""
    (?:please\s+|(?:can|could)\s+you\s+(?:please\s+)?)?
    (?:
        (?:what|who)(?:['’]s|\s+is|\s+are|\s+was|\s+were)\s+(?P<one>.+?)
            (?:\s+(?:about|for|used\s+for|good\s+for))?
        |what\s+(?:does|did|do)\s+(?P<does>.+?)\s+do
        |(?P<more>
            (?:tell\s+me|what\s+(?:do\s+you\s+know|(?:did|have)\s+you\s+(?:read|learned?)))
            \s+(?:more\s+|something\s+|everything\s+)?about
            |describe|summari[sz]e|introduce|sum\s+up
        )\s+(?P<all>.+?)
    )\s*[?.!]*
    """,
    re.IGNORECASE | re.VERBOSE,
)
# asks for all subjects
READ = re.compile(
    r"what\s+(?:(?:texts?|documents?)\s+)?(?:(?:have|did)\s+you|you\s+have)\s+"
    r"(?:been\s+)?(?:read|studied|study|learn(?:ed|t)?)(?:\s+(?:about|so\s+far))?\s*[?.!]*",
    re.IGNORECASE,
)
DEFINITE = ("the", "this", "that", "these", "those", "my", "our", "your")


class Definition(NamedTuple):
    """What a definition question asks for."""

    subject: str  # as a phrase
    all: bool  # whatever is known of it, not only what it is


def definition(question: str) -> Definition | None:
    """The subject of a definition question; None for any other.

    >>> definition("What is the Marlow 7 pump for?")
    Definition(subject='the Marlow 7 pump', all=False)
    >>> definition("Tell me more about Ada Voss."), definition("When is it open?")
    (Definition(subject='Ada Voss', all=True), None)
    """
    found = QUESTION.fullmatch(question.strip())
    if found is None:
        return None
    phrase = next(found[name] for name in ("one", "does", "all") if found[name])
    return Definition(phrase, found["more"] is not None) if telling(phrase) else None


def asks_for_all(question: str) -> bool:
    """Whether a question asks what was read at all.

    >>> asks_for_all("What have you read so far?"), asks_for_all("What have you read about Rome?")
    (True, False)
    """
    return READ.fullmatch(question.strip()) is not None


def defines(text: Text, asked: Definition, one: Studied) -> bool:
    """Whether a definition question asks for the subject of a document.

    It does if it has all words of the subject, or an unusual name from it with another word of what
    else the subject has; and at most one word more, a noun right before a name ("the package gap").
    Without a name it must be definite: "What is beekeeping?" is not about the text "Beekeeping".
    """
    wanted, own = _bare(asked.subject), {*telling(one.about)}
    if not own or wanted - own - _before_name(asked.subject, own):
        return False
    first = words(asked.subject)[0].low
    if own <= wanted:
        definite = first in DEFINITE or any(
            word.named or word.counts for word in words(asked.subject)
        )
        return asked.all or definite
    return has_name(text, asked.subject, one.about)


def has_name(text: Text, question: str, about: str) -> bool:
    """Whether a question has a whole unusual name from a subject, and a word of the subject's rest.

    A name is unusual if a word of it is several tokens, as no word of a well-known name is. Without
    a rest ("the harbour choir of Sandwick" has one, "Ada Voss" none) the name is enough.
    """
    asked = {word.stem for word in words(question)}
    runs = named_in(about)
    rest = {*telling(about)} - {word.low for name in runs for word in name} - {"letter"}
    return (not rest or not rest.isdisjoint(telling(question))) and any(
        unusual(text, name) and asked.issuperset(word.text for word in name) for name in runs
    )


def named_in(phrase: str) -> list[list[Word]]:
    """The runs of names and numbers in a phrase.

    >>> [[word.text for word in name] for name in named_in("a letter from Ida Holm to Mr Voss")]
    [['Ida', 'Holm'], ['Mr', 'Voss']]
    """
    runs = itertools.groupby(words(phrase), lambda word: word.named or word.counts)
    return [list(own) for known, own in runs if known]


def unusual(text: Text, name: Sequence[Word]) -> bool:
    """Whether a word of a name is several tokens."""
    return any(not word.counts and len(plain(text, f" {word.stem}")) > 1 for word in name)


def mentions(text: Text, asked: Definition, sentences: Sequence[str]) -> list[int]:
    """Which sentences have the subject of a definition question, if that is an unusual name.

    A noun may be right before it: "the captain Ada Voss".
    """
    own = words(asked.subject)
    name = {word.bare for word in own if word.tells and (word.named or word.counts)}
    wanted = _bare(asked.subject)
    if not name or wanted - name - _before_name(asked.subject, name):
        return []
    if not unusual(text, [word for word in own if word.named]):
        return []
    return [number for number, line in enumerate(sentences) if name <= _bare(line)]


def _bare(phrase: str) -> set[str]:
    return {word.bare for word in words(phrase) if word.tells}


def _before_name(phrase: str, name: set[str]) -> set[str]:
    """The noun right before the words of a name, as far as there is one."""
    own = words(phrase)
    for word, after in itertools.pairwise(own):
        if after.bare in name:
            apart = phrase[word.end : after.begin].strip()
            return {word.bare} if word.tells and not apart else set()
    return set()
