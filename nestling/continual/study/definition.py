"""Definition questions: "What is X?", "Who was X?", "What is X for?", "Tell me about X".

They name a subject and nothing that a sentence about it could be matched with. If the subject is
that of a document, the answer is the sentence that introduces it, or what is recited of it in
order; if it is an unusual name within a document, the sentence that introduces the name.

Source: the definition questions of TREC 2003 (Voorhees, "Overview of the TREC 2003 question
answering track").
"""

import itertools
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from nestling.continual.study.answer_type import may_answer, new_name
from nestling.continual.study.form import plain
from nestling.continual.study.recite import Sentence
from nestling.continual.study.record import Studied
from nestling.continual.study.verbs import finite
from nestling.continual.study.words import Word, listed, telling, words
from nestling.continual.text import Text

POLITE = re.compile(
    r"^(?:(?:so|hi|hello|hey|ok|okay|well|and|please|(?:can|could|would|will) you(?: please)?)\b"
    r"[,! ]*)+|[, ]*\bplease(?=[?.! ]*$)|^[\"'“‘]+|[\"'”’]+$",
    re.IGNORECASE,
)
LEARNED = r"(?:(?:been )?(?:read|reading|study|studied|studying|learn|learned|learnt|learning))"
QUESTION = re.compile(
    rf"""
    (?:
        (?:what|who)(?:['’]s|s|['’]re|\ is|\ are|\ was|\ were)\ (?P<one>\S.*?)
            (?:\ (?:about|for|used\ for|good\ for))?
        |(?:tell\ me|do\ you\ know)\ (?:what|who)\ (?P<known>\S.*?)\ (?:is|are|was|were)
        |what\ (?:does|did|do)\ (?P<does>\S.*?)\ (?:do|mean)
        |define\ (?P<defined>\S.*)
        |(?P<more>
            (?:
                (?:tell\ me|what\ (?:can\ you\ tell\ me|do\ you\ know|(?:did|have)\ you\ {LEARNED}))
                \ (?:(?:more|something|everything|all|a\ bit|a\ little)\ )?about
                |(?:give\ me\ )?a\ summary\ of|describe|explain|summari[sz]e|introduce|sum\ up
            )\ (?P<all>\S.*)
        )
    )
    """,
    re.IGNORECASE | re.VERBOSE,
)
# asks for the subjects of all documents
OF_ALL = re.compile(
    rf"(?:what|which)(?: (?:texts?|documents?|files?|books?|pages?|subjects?|things?))?"
    rf" (?:(?:have|did|do) you|you have) (?:{LEARNED}|know)"
    r"(?: about| so far| today| recently| already| until now)?",
    re.IGNORECASE,
)
LONGEST = 200  # characters of such a question
ARTICLES = listed("the a an this that these those my our your")
DEFINITE = ARTICLES - {"a", "an"}
JOINTS = listed("of from to and in on at for with by or")  # within a subject
BESIDE = listed("is was are were called named")  # a name is introduced beside them


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
    found = QUESTION.fullmatch(_core(question))
    if found is None:
        return None
    phrase = next(found[name] for name in ("one", "known", "does", "defined", "all") if found[name])
    return Definition(phrase, found["more"] is not None) if telling(phrase) else None


def asks_for_all(question: str) -> bool:
    """Whether a question asks what was read at all.

    >>> asks_for_all("What have you read so far?"), asks_for_all("What have you read about Rome?")
    (True, False)
    """
    return OF_ALL.fullmatch(_core(question)) is not None


def _core(question: str) -> str:
    """A question on one line, without quotes, punctuation at the end and politeness."""
    line = " ".join(question[: 2 * LONGEST].split())
    if len(line) > LONGEST:
        return ""
    return POLITE.sub("", POLITE.sub("", line).rstrip("?.! ")).strip("?.! ")


def introducing(
    text: Text,
    question: str,
    studied: Sequence[Studied],
    near: Sequence[Studied],
    recited: Callable[[Studied], Sequence[Sentence]],
) -> list[Sentence]:
    """The recited sentences that answer a definition question; none for any other.

    From all documents about the subject, in the order they were read; if there are none, those with
    an unusual name, from the documents ``near`` the question. One sentence, or all of them.
    """
    asked = definition(question)
    if asked is None:
        return []
    if inside := [one for one in studied if defines(text, asked, one)]:
        said = [line for one in inside for line in recited(one)]
        role = question.lower().split()[0].startswith("who") and _head(inside[0].about)
        known = frozenset(word.bare for word in words(question))
        fit = [
            line
            for line in said
            if may_answer(question, line.text)
            and (not role or new_name(words(line.text)[1:], known))
        ]
    else:
        order = [one for one in studied if any(one is other for other in near)]
        lines = [line for one in order for line in recited(one)]
        name = _content(asked.subject)
        fit = [line for line in lines if introduces(text, asked, line.text)]
        said = [line for line in lines if name <= _content(line.text)] if fit else []
    return said if asked.all else fit[:1]


def defines(text: Text, asked: Definition, one: Studied) -> bool:
    """Whether a definition question asks for the subject of a document.

    It does if it has all content words of the subject and no others or, where the subject has an
    unusual name, its head ("pump" in "the Marlow 7 pump") and an unusual word of the name. Without
    a name the question must be definite: "What is beekeeping?" is not about the text "Beekeeping".
    """
    own, wanted = _content(one.about), _content(asked.subject)
    if not own or not wanted or wanted - own or not _joined(asked.subject, one.about):
        return False
    strange = {word.bare for run in named_in(one.about) for word in run if unusual(text, [word])}
    if wanted == own:
        asks = words(asked.subject)
        capital = any(word.named or word.counts for word in asks)
        return asked.all or capital or bool(strange) or asks[0].low in DEFINITE
    heads = _head(one.about)
    return (not heads or not heads.isdisjoint(wanted)) and not strange.isdisjoint(wanted)


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


def introduces(text: Text, asked: Definition, sentence: str) -> bool:
    """Whether a sentence introduces the subject of a definition question, an unusual name.

    It begins with the name, or has it beside a form of "be" or "called", a comma, or a noun: "his
    niece Lotte". "Call us on WhatsApp" introduces nothing.
    """
    subject = words(asked.subject)
    wanted = [word.bare for word in subject if word.low not in ARTICLES]
    capitals = {word.stem for word in subject if word.named}
    own = words(sentence)
    for begin in range(len(own) - len(wanted) + 1):
        name = own[begin : begin + len(wanted)]
        if [word.bare for word in name] != wanted or not unusual(text, name):
            continue
        if not all(word.named or word.counts for word in name):
            continue
        start = begin == 0 or (begin == 1 and own[0].low in ARTICLES)
        if start and capitals.isdisjoint(word.stem for word in name):
            continue  # any first word has a capital
        after = own[begin + len(wanted) :]
        if start or (after and after[0].low in BESIDE):
            return True
        if sentence[name[-1].end :].lstrip().startswith(",") or _noun_ends(own[:begin]):
            return True
    return False


def _noun_ends(own: Sequence[Word]) -> bool:
    """Whether words end with "called" or what may be a noun: "his niece", "our captain"."""
    *rest, last = own
    if last.low in BESIDE:
        return True
    owned = bool(rest) and rest[-1].low in ARTICLES | {"his", "her", "its", "their"}
    return last.tells and not last.low.endswith("ing") and (owned or finite(last.text) is None)


def _content(phrase: str) -> set[str]:
    return {word.bare for word in words(phrase) if word.tells}


def _joined(phrase: str, about: str) -> bool:
    """Whether a phrase has no words between those of a subject but an article and its joints."""
    own = words(phrase)
    rest = {word.low for word in own[own[0].low in ARTICLES :] if not word.tells}
    return rest <= (JOINTS & {word.low for word in words(about)}) | {"the"} and own[-1].tells


def _head(about: str) -> set[str]:
    """The last common noun before the first joint of a subject, as a set; empty without one."""
    own = itertools.takewhile(lambda word: word.low not in JOINTS, words(about))
    common = [word.bare for word in own if word.tells and not word.named and not word.counts]
    return set(common[-1:])
