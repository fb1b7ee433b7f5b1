"""What must stay as it was: other names, other situations, text of the base, earlier documents."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from nestling.continual.study.body import Ids
from nestling.continual.study.form import Form
from nestling.continual.study.lessons import Draft, followed, replied
from nestling.continual.study.near import GENERAL, near_ones
from nestling.continual.study.plan import Plan
from nestling.continual.study.speaker import Speaker

HEARD = 12  # tokens of an answer that is followed
RECALLED = 32  # tokens of what an earlier document is replayed by


def near_drafts(
    speaker: Speaker,
    forms: tuple[Form, Form | None],
    questions: Sequence[str],
    about: str,
    plan: Plan,
    seed: str,
) -> list[Draft]:
    """Questions near those of a passage, and general ones, with the answers of the base.

    In the chat form the whole beginning of its answer is followed, plainly the first token alone.
    """
    first, chat = forms
    made = near_ones(questions, about, plan.near_count, seed)
    asked = [*made, *GENERAL[: plan.near_count // 2]]
    if not asked:
        return []
    talk = chat or first
    told = speaker.told(talk.opening)
    answers = speaker.said(told, [talk.prompt(one) for one in asked], most=HEARD, stop=talk.stop)
    found = [followed(talk, one, said) for one, said in zip(asked, answers, strict=True)]
    return found + [followed(first, one, ()) for one in made]


def own_drafts(texts: Sequence[Ids]) -> list[Draft]:
    """Texts that the base wrote, to be written as likely as it does."""
    return [Draft(ids, False, 0, None) for ids in texts]


def replay_drafts(
    speaker: Speaker,
    forms: tuple[Form, Form | None],
    earlier: Sequence[tuple[str, str]],
    weights: Mapping[str, Tensor],
) -> tuple[list[Draft], list[Draft]]:
    """Questions about earlier documents: what the model says to them now, and where nobody talks
    short answers.

    The first are to be said as likely as now, so that no text of a document has to be kept.
    """
    first, chat = forms
    talk = chat or first
    if not earlier:
        return [], []
    with torch.no_grad():
        told = speaker.told(talk.opening, weights)
        prompts = [talk.prompt(question) for question, _ in earlier]
        said = speaker.said(told, prompts, most=RECALLED, stop=talk.stop, weights=weights)
    recalled = [
        followed(talk, question, ids) for (question, _), ids in zip(earlier, said, strict=True)
    ]
    if chat:
        return recalled, []
    return recalled, [replied(first, question, answer) for question, answer in earlier]
