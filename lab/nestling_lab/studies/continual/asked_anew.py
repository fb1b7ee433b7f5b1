"""Asks a model about a text in a new process, which has not seen the text.

Run: python -m nestling_lab.studies.continual.asked_anew MODEL MEMORY
with a JSON object of ``text``, ``questions`` and ``ways`` on stdin.
"""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from nestling.continual.learner import ContinualLearner
from nestling.continual.methods import Retrieval
from nestling.continual.opening import open_learner
from nestling.continual.study.body import Ids
from nestling.continual.study.form import PLAIN, Form, begun, plain
from nestling.continual.study.judge import SHOTS
from nestling.continual.study.words import sentences

TOKENS = 40  # of an answer, at most
FOUND = 3  # sentences retrieved per question
LONGEST = 512  # tokens of a stored sentence, at most

STUDIED = {"studied": True, "unchecked": False}  # whether replies are checked

Prompts = tuple[Ids, Form, list[Ids]]  # what is read once, the form, what follows for each question
Replies = Callable[[ContinualLearner, str, Sequence[str]], list[str]]


def nothing(base: ContinualLearner, text: str, questions: Sequence[str]) -> list[str]:
    """Ask the base each question without the text."""
    return _said(base, *in_chat(base, "", questions))


def chat(base: ContinualLearner, text: str, questions: Sequence[str]) -> list[str]:
    """Ask the base with the text before each question, as a user would in a chat."""
    return _said(base, *in_chat(base, text, questions))


def shots(base: ContinualLearner, text: str, questions: Sequence[str]) -> list[str]:
    """Ask the base with two worked examples, the text, and each question in the same form."""
    return _said(base, *after_shots(base, text, questions))


def in_chat(base: ContinualLearner, text: str, questions: Sequence[str]) -> Prompts:
    """The opening and the prompts of ``chat``; an empty text asks without one."""
    talk = base.school.talk
    before = f"{text}\n\n" if text else ""
    return talk.opening, talk, [talk.prompt(f"{before}{ask}") for ask in questions]


def after_shots(base: ContinualLearner, text: str, questions: Sequence[str]) -> Prompts:
    """The opening and the prompts of ``shots``."""
    opening = begun(base.text, f"{SHOTS}Text: {text}\n")
    prompts = [plain(base.text, PLAIN.format(question=ask)) for ask in questions]
    return opening, base.school.forms[0], prompts


def found(base: ContinualLearner, text: str, questions: Sequence[str]) -> list[str]:
    """Like ``shots``, but with only the sentences of the text that BM25 finds for each question."""
    return [shots(base, nearest(base, text, ask), [ask])[0] for ask in questions]


def nearest(base: ContinualLearner, text: str, question: str) -> str:
    """The sentences that match a question best, in the order of the text."""
    there = sentences(text)
    store = Retrieval(
        base.reader.model, window=4 * FOUND * LONGEST, segment=1, passage=LONGEST, found=FOUND
    )

    def ids(sentence: str) -> Ids:
        return plain(base.text, f" {sentence.lower()}")[:LONGEST]

    for sentence in there:
        store.read(ids(sentence))
    return " ".join(there[number] for number in sorted(store.nearest(ids(question))))


FROZEN: Mapping[str, Replies] = {"nothing": nothing, "chat": chat, "shots": shots, "found": found}


def replies(
    model: str, memory: str | Path, text: str, questions: Sequence[str], ways: Sequence[str]
) -> dict[str, list[str]]:
    """The replies to each question, by way.

    ``studied`` replies come from the memory as with `nestling ask`, ``unchecked`` ones are greedy;
    all others come from the base.
    """
    said = {}
    own = [way for way in ways if way in STUDIED]
    if own:
        learner = open_learner(model, Path(memory), must_exist=True)
        for way in own:
            check = STUDIED[way]
            said[way] = [learner.ask(ask, tokens=TOKENS, check=check) for ask in questions]
    base = open_learner(model)
    return said | {way: FROZEN[way](base, text, questions) for way in ways if way in FROZEN}


def _said(base: ContinualLearner, opening: Ids, form: Form, prompts: Sequence[Ids]) -> list[str]:
    speaker = base.school.speaker
    rows = speaker.said(speaker.told(opening), prompts, most=TOKENS, stop=form.stop)
    return [base.text.decode(ids) for ids in rows]


if __name__ == "__main__":
    given = json.load(sys.stdin)
    print(json.dumps(replies(*sys.argv[1:], given["text"], given["questions"], given["ways"])))
