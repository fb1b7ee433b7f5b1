"""The lessons of a passage: questions to learn, and predictions to preserve."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from nestling.continual.study.body import Body, Ids
from nestling.continual.study.form import Form, begun, plain
from nestling.continual.study.makers import natural
from nestling.continual.study.material import Question
from nestling.continual.study.passages import Passage
from nestling.continual.study.plan import Plan
from nestling.continual.study.sentence import replies
from nestling.continual.study.training import Lesson
from nestling.continual.text import Text

ROW = 12  # texts per batch when computing features


class Draft(NamedTuple):
    """A lesson for which nothing has been computed yet."""

    ids: Ids
    begins: bool  # whether it follows the opening of the chat form
    first: int  # the place before the first target token
    tokens: Ids | None  # target tokens; None: distil the reference model
    group: int = 0  # what it teaches to say; all groups come up equally often


def replied(form: Form, question: str, reply: str, group: int = 0) -> Draft:
    """A question with its reply as the target."""
    prompt, answer = form.prompt(question), form.answer(reply)
    return Draft((*prompt, *answer), form.chat, len(prompt) - 1, answer, group)


def begun_as(form: Form, one: Question, others: Sequence[str]) -> Draft:
    """A question with the start of its reply, as far as needed to distinguish it from others.

    The start decides which sentence is recalled; the rest of it is learned in other lessons.
    """
    prompt, answer = form.prompt(one.question), form.answer(one.reply)
    apart = [_same(answer, form.answer(other)) for other in others if other != one.reply]
    answer = answer[: max(apart, default=0) + 2]
    return Draft((*prompt, *answer), form.chat, len(prompt) - 1, answer, one.sentence)


def _same(one: Ids, other: Ids) -> int:
    """The length of the common prefix."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((n for n, (a, b) in pairs if a != b), min(len(one), len(other)))


def followed(form: Form, question: str, answer: Ids) -> Draft:
    """A question with an answer of the reference model, to be distilled from it."""
    prompt = form.prompt(question)
    return Draft((*prompt, *answer), form.chat, len(prompt) - 1, None)


def line(text: Text, title: str, sentence: str) -> Draft:
    """A sentence of a document after its title."""
    ids = plain(text, sentence)
    if not title:
        whole = begun(text, sentence)
        return Draft(whole, False, 0, whole[1:])
    head = begun(text, f"{title}\n\n")
    return Draft((*head, *ids), False, len(head) - 1, ids)


def lessons(
    body: Body, drafts: Sequence[Draft], weights: Mapping[str, Tensor] | None = None
) -> list[Lesson]:
    """Turn drafts into lessons; ``weights`` are those of the reference model."""
    places = [
        slice(
            draft.first, len(draft.ids) if draft.tokens is None else draft.first + len(draft.tokens)
        )
        for draft in drafts
    ]
    read = [
        (draft.ids[: place.stop], draft.begins) for draft, place in zip(drafts, places, strict=True)
    ]
    entries = body.entries(read)  # tokens after the last place are not needed
    wanted: list[Ids | Tensor] = [draft.tokens or () for draft in drafts]
    open_ones = [number for number, draft in enumerate(drafts) if draft.tokens is None]
    for begin in range(0, len(open_ones), ROW):
        part = open_ones[begin : begin + ROW]
        with torch.no_grad():
            features = body.features(
                weights or {}, [entries[n] for n in part], [places[n] for n in part]
            )
        for number, found in zip(part, features, strict=True):
            wanted[number] = found.detach().clone()
    groups = [draft.group for draft in drafts]
    return [Lesson(*parts) for parts in zip(entries, places, wanted, groups, strict=True)]


def learned(
    plan: Plan, passage: Passage, questions: Sequence[Question], forms: tuple[Form, Form | None]
) -> list[tuple[list[Draft], float, int]]:
    """The drafts that teach a passage, with their weight and number per step.

    ``questions`` are the studied ones.
    """
    first, chat = forms
    talk = chat or first
    others = list(dict.fromkeys(replies(passage)))
    # what is said for several sentences comes up as often as any other
    first_of: dict[str, int] = {}
    questions = [
        one._replace(sentence=first_of.setdefault(one.reply, one.sentence)) for one in questions
    ]
    studied = [one for one in questions if natural(one)]
    # one form only: learning a second one costs more and damages earlier knowledge
    said = [
        replied(talk, one.question, one.reply, one.sentence)
        for one in studied
        if chat or not one.answer
    ]
    keys = [begun_as(talk, one, others) for one in questions if not natural(one)]
    short = [
        replied(first, one.question, one.answer, one.sentence)
        for one in studied
        if one.answer and not chat
    ]
    own = [line(first.text, passage.title, reply) for reply in others]
    own = [draft for draft in own if draft.tokens]
    return [
        (said, 1.0, plan.replies),
        (keys, plan.key_weight, plan.keys),
        (short, plan.answer_weight, plan.answers),
        (own, plan.line_weight, plan.lines),
    ]
