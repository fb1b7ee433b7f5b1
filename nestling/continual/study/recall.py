"""Answering from what was studied: replies are recalled, each is checked, and the best one is said.

A document that was studied lies in the weights as sentences. Which of them is said is decided in
the first tokens of a reply, and there a small model errs most. So several openings are followed to
their ends, and three things are checked of every reply: that study made it likelier, that it is
remembered whatever was asked, and that the question fits it. If none passes, the model answers as
it did before study.

Sources: arXiv 2210.01296 (recite, then answer), 1611.02554 (the noisy channel: how likely is the
question, given the reply). Deviates: what is recited is the reply itself.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from nestling.continual.study.body import Ids
from nestling.continual.study.form import PLAIN, Form, begun, plain
from nestling.continual.study.judge import SHOTS
from nestling.continual.study.speaker import Score, Speaker, Told
from nestling.continual.study.words import telling, words

if TYPE_CHECKING:
    from nestling.continual.study.study import School

OPENINGS = 12  # that are followed
FIRST = 4  # tokens of an opening
WITHIN = 12.0  # nats that an opening may be less likely than the best
LONGEST = 48  # tokens of a reply that is checked
GAIN = 1.5  # nats a token that study has made a learned reply likelier by, in the mean
ALONE = -0.4  # nats a token of a learned reply behind its opening, whatever was asked
SHARE = 0.5  # of the question's likelihood after a reply, in what the reply is worth
WORTH = -0.8  # nats that a reply must be worth to be said
ANYTHING = "Go on."  # a question of no content
EMPTY = "It is so."  # a reply of no content


class Reply(NamedTuple):
    """A reply, and what was found of it."""

    ids: Ids
    nats: float  # its log-likelihood after the question
    gain: float  # nats a token that study has made it likelier by
    alone: float  # nats a token behind its opening after ANYTHING: what was made up is unlikely
    fit: float  # nats that the question is likelier after it than after EMPTY

    @property
    def learned(self) -> bool:
        """Whether study has taught it."""
        return self.gain >= GAIN and self.alone >= ALONE

    @property
    def worth(self) -> float:
        """How likely it is by the question, and the question by it, nats."""
        return self.nats + SHARE * self.fit


@torch.no_grad()
def answered(school: "School", question: str, tokens: int) -> str:
    """What a model that has studied says to a question, of at most ``tokens`` tokens.

    Raises UserError for an empty question.
    """
    learner, form = school.learner, school.talk
    prompt = learner.text.prompt(question, form.chat)
    own, before = learner.weights(), learner.weights(studied=False)
    subjects = [one.about for one in learner.state.studied]
    reply = best(recalled(school.speaker, form, question, own, before, subjects))
    ids = reply.ids[:tokens] if reply else ()
    if reply is None or len(reply.ids) == LONGEST < tokens:  # nothing fits, or it may go on
        given = torch.tensor([[*prompt, *ids]], device=learner.device)
        more = {"do_sample": False, "max_new_tokens": tokens - len(ids)}
        rest = learner.reader.generate(own if reply else before, given, **more)
        ids = (*ids, *rest[0].tolist())
    return learner.text.decode(ids).strip()


def recalled(
    speaker: Speaker,
    form: Form,
    question: str,
    weights: Mapping[str, Tensor],
    before: Mapping[str, Tensor],
    subjects: Sequence[str] = (),
) -> list[Reply]:
    """Replies to a question, the likeliest opening first.

    ``before`` are the weights before study, ``subjects`` what the documents are about.
    """
    prompt = form.prompt(question)
    asked = _asked(speaker, form, prompt, weights)
    found = _ended(speaker, form.stop, asked, weights)
    now = _scores(speaker, form, asked, found, weights)
    anything = _asked(speaker, form, form.prompt(ANYTHING), weights)
    alone = _scores(speaker, form, anything, found, weights)
    old = _scores(speaker, form, _asked(speaker, form, prompt, before), found, before)
    lines = [form.text.decode(ids) for ids in found]
    fits = _fits(speaker, form, question, subject_of(question, subjects), lines, before)
    return [
        Reply(ids, float(one.nats.sum()), one.mean - then.mean, _tail(other), fit)
        for ids, one, then, other, fit in zip(found, now, old, alone, fits, strict=True)
    ]


class _Asked(NamedTuple):
    """A question that was read but for its last token, which all replies go on from."""

    told: Told
    last: Ids


def _asked(speaker: Speaker, form: Form, prompt: Ids, weights: Mapping[str, Tensor]) -> _Asked:
    return _Asked(speaker.told((*form.opening, *prompt[:-1]), weights), prompt[-1:])


def _scores(
    speaker: Speaker,
    form: Form,
    asked: _Asked,
    replies: Sequence[Ids],
    weights: Mapping[str, Tensor],
) -> list[Score]:
    """How likely replies are, each with its end if it has one."""
    end = form.answer("")[-1:]
    ended = [(*ids, *end) if len(ids) < LONGEST else ids for ids in replies]
    return speaker.scores(asked.told, [(asked.last, ids) for ids in ended], weights)


def _tail(score: Score) -> float:
    """Log-likelihood of a token behind the opening, in the mean."""
    rest = score.nats[FIRST:]
    return float(rest.mean()) if len(rest) else 0.0


def best(replies: Sequence[Reply]) -> Reply | None:
    """The learned reply that is worth most; None: none is worth saying."""
    can = [one for one in replies if one.learned and one.worth >= WORTH]
    return max(can, key=lambda one: one.worth, default=None)


def _ended(
    speaker: Speaker, stop: frozenset[int], asked: _Asked, weights: Mapping[str, Tensor]
) -> list[Ids]:
    """The openings that are followed, each to its end."""
    begun = openings(speaker, stop, asked.told, asked.last, weights)
    heads = [(*asked.last, *ids) for ids in begun]
    rest = speaker.said(asked.told, heads, most=LONGEST - FIRST, stop=stop, weights=weights)
    whole = [(*ids, *end) for ids, end in zip(begun, rest, strict=True)]
    return list(dict.fromkeys(whole))


def openings(
    speaker: Speaker,
    stop: frozenset[int],
    told: Told,
    last: Ids,
    weights: Mapping[str, Tensor],
) -> list[Ids]:
    """The likeliest first tokens of a reply, by beam search; none that ends at once.

    ``told`` is what was read, but for its ``last`` token.
    """
    beams: list[tuple[float, Ids]] = [(0.0, ())]
    for _ in range(FIRST):
        rows = speaker.next_tokens(told, [(*last, *ids) for _, ids in beams], weights)
        rows[:, list(stop)] = -torch.inf
        more, tokens = rows.topk(min(OPENINGS, rows.shape[1]))
        grown: list[tuple[float, Ids]] = [
            (nats + float(more[row, k]), (*ids, int(tokens[row, k])))
            for row, (nats, ids) in enumerate(beams)
            for k in range(more.shape[1])
        ]
        beams = sorted(grown, reverse=True)[:OPENINGS]
    return [ids for nats, ids in beams if nats >= beams[0][0] - WITHIN]


def subject_of(question: str, subjects: Iterable[str]) -> str:
    """What a question is about: the subjects that share a word with it, and the names in it.

    >>> subject_of("Where does the pump of Ada Voss stand?", ["the Marlow 7 pump", "the ferry"])
    'the Marlow 7 pump, Ada, Voss'
    """
    asked = set(telling(question))
    found = [one for one in dict.fromkeys(subjects) if asked.intersection(telling(one))]
    there = {word for one in found for word in telling(one)}
    named = [word.text for word in words(question)[1:] if word.named and word.low not in there]
    return ", ".join([*found, *named])


def _fits(
    speaker: Speaker,
    form: Form,
    question: str,
    subject: str,
    replies: Sequence[str],
    weights: Mapping[str, Tensor],
) -> list[float]:
    """How much likelier a question is after each reply than after one of no content, nats.

    The subject stands before every reply, so that one which says "it" is none the worse.
    """
    text = form.text
    head = f"Text: {subject}. " if subject else "Text: "
    asked = plain(text, PLAIN.format(question=question).removeprefix("Question:"))
    told = speaker.told(begun(text, SHOTS), weights)
    pairs = [(plain(text, f"{head}{reply}\nQuestion:"), asked) for reply in (*replies, EMPTY)]
    *found, none = [float(one.nats.sum()) for one in speaker.scores(told, pairs, weights)]
    return [one - none for one in found]
