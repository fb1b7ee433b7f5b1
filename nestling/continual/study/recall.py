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
from nestling.continual.study.speaker import Line, Score, Speaker, Told
from nestling.continual.study.words import telling, words

if TYPE_CHECKING:
    from nestling.continual.study.study import School

OPENINGS = 12  # that are followed
FIRST = 4  # tokens of an opening
WITHIN = 12.0  # nats that an opening may be less likely than the best
HEARD = 12  # tokens after which a reply that study has not taught is given up
HINT = 0.5  # nats a token that study must have made these likelier by
LONGEST = 48  # tokens of a reply that is checked
GAIN = 1.5  # nats a token that study has made a learned reply likelier by, in the mean
ALONE = -0.4  # nats a token of a learned reply behind its opening, whatever was asked
SHARE = 0.5  # of the question's likelihood after a reply, in what the reply is worth
WORTH = -0.8  # nats that a reply must be worth to be said
FITTING = 24.0  # nats that a question is taken to be likelier by after a reply, at most
AT_ONCE = 4  # replies that are checked at once
ANYTHING = "Go on."  # a question of no content
EMPTY = "It is so."  # a reply of no content

Lines = dict[Ids, float]  # beginnings of replies, or whole ones with their ends: log-likelihoods


class Reply(NamedTuple):
    """A reply that study has taught, and what was found of it."""

    ids: Ids
    nats: float  # its log-likelihood after the question
    gain: float  # nats a token that study has made it likelier by
    alone: float  # nats a token behind its opening after ANYTHING: what was made up is unlikely
    fit: float  # nats that the question is likelier after it than after EMPTY

    @property
    def ended(self) -> bool:
        """Whether it came to its end before it was cut."""
        return len(self.ids) < LONGEST

    @property
    def worth(self) -> float:
        """How likely it is by the question, and the question by it, nats."""
        return self.nats + SHARE * self.fit


@torch.no_grad()
def answered(school: "School", question: str, tokens: int) -> str:
    """What a model that has studied says to a question, of at most ``tokens`` tokens.

    Raises UserError for an empty question.
    """
    learner = school.learner
    prompt = learner.text.prompt(question, school.talk.chat)
    reply = recall(school, question)
    ids = reply.ids[:tokens] if reply else ()
    if reply is None or (not reply.ended and len(ids) < tokens):
        given = torch.tensor([[*prompt, *ids]], device=learner.device)
        more = {"do_sample": False, "max_new_tokens": tokens - len(ids)}
        weights = learner.weights(studied=reply is not None)
        rest = learner.reader.generate(weights, given, **more)
        ids = (*ids, *rest[0].tolist())
    return learner.text.decode(ids).strip()


@torch.no_grad()
def recall(school: "School", question: str) -> Reply | None:
    """The reply worth saying to a question; None: the model answers as before study."""
    learner = school.learner
    own, before = learner.weights(), learner.weights(studied=False)
    subjects = [one.about for one in learner.state.studied]
    return best(recalled(school.speaker, school.talk, question, own, before, subjects))


def best(replies: Sequence[Reply]) -> Reply | None:
    """The reply that is worth most; None: none is worth saying."""
    can = [one for one in replies if one.worth >= WORTH]
    return max(can, key=lambda one: one.worth, default=None)


def recalled(
    speaker: Speaker,
    form: Form,
    question: str,
    weights: Mapping[str, Tensor],
    before: Mapping[str, Tensor],
    subjects: Sequence[str] = (),
) -> list[Reply]:
    """Replies to a question that study has taught, the likeliest first.

    ``before`` are the weights before study, ``subjects`` what the documents are about. A reply that
    one check has ruled out is not followed, nor checked by the next; and none is checked that could
    not be worth more than the best, were the question ``FITTING`` nats likelier after it.
    """
    asked = _Asked(speaker, form, question, weights)
    base = _Asked(speaker, form, question, before)
    lines = openings(speaker, form.stop, asked.told, asked.last, weights)
    lines = _possible(asked.followed(lines, FIRST, HEARD), WORTH)
    then = base.scores(lines, HEARD)
    lines = {line: nats for line, nats in lines.items() if _gain(nats, then[line]) >= HINT}
    if not lines:
        return []
    lines = asked.followed(lines, HEARD, LONGEST)
    anything = _Asked(speaker, form, ANYTHING, weights)
    subject = subject_of(question, subjects)
    found: list[Reply] = []
    while lines := _possible(lines, max((one.worth for one in found), default=WORTH)):
        own = {line: lines.pop(line) for line in list(lines)[:AT_ONCE]}
        alone = {line: _tail(score) for line, score in anything.scores(own, LONGEST).items()}
        kept = [line for line in own if alone[line] >= ALONE]
        then = base.scores(kept, LONGEST)
        gains = {line: _gain(own[line], score) for line, score in then.items()}
        kept = [line for line in kept if gains[line] >= GAIN]
        fits = _fits(speaker, form, question, subject, kept, before)
        found += [Reply(line, own[line], gains[line], alone[line], fits[line]) for line in kept]
    return found


class _Asked:
    """A question that a model with certain weights has read; all replies go on from there."""

    def __init__(self, speaker: Speaker, form: Form, question: str, weights: Mapping[str, Tensor]):
        prompt = form.prompt(question)
        self.speaker, self.form, self.weights = speaker, form, weights
        self.told = speaker.told((*form.opening, *prompt[:-1]), weights)
        self.last = prompt[-1:]

    def followed(self, lines: Lines, length: int, most: int) -> Lines:
        """Lines of ``length`` tokens with what comes after them, up to ``most`` tokens in all.

        Shorter ones have ended.
        """
        rest = self.speaker.written(
            self.told,
            [(*self.last, *line) for line in lines if len(line) == length],
            most=most - length,
            stop=self.form.stop,
            weights=self.weights,
        )
        more = iter(rest)
        found: Lines = {}
        for line, nats in lines.items():
            after = next(more) if len(line) == length else Line((), 0.0)
            found[(*line, *after.ids)] = nats + after.nats
        return found

    def scores(self, lines: Iterable[Ids], most: int) -> dict[Ids, Score]:
        """How likely lines are, each with its end if it has fewer tokens than ``most``."""
        end, own = self.form.answer("")[-1:], list(lines)
        pairs = [(self.last, (*line, *end) if len(line) < most else line) for line in own]
        return dict(zip(own, self.speaker.scores(self.told, pairs, self.weights), strict=True))


def _possible(lines: Lines, worth: float) -> Lines:
    """The lines that may be worth more, the likeliest first."""
    can = [one for one in lines.items() if one[1] + SHARE * FITTING >= worth]
    return dict(sorted(can, key=lambda one: -one[1]))


def _gain(nats: float, before: Score) -> float:
    """Nats a token that a line has become likelier by."""
    return nats / len(before.nats) - before.mean


def _tail(score: Score) -> float:
    """Log-likelihood of a token behind the opening, in the mean."""
    rest = score.nats[FIRST:]
    return float(rest.mean()) if len(rest) else 0.0


def openings(
    speaker: Speaker,
    stop: frozenset[int],
    told: Told,
    last: Ids,
    weights: Mapping[str, Tensor],
) -> Lines:
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
    return {ids: nats for nats, ids in beams if nats >= beams[0][0] - WITHIN}


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
    lines: Sequence[Ids],
    weights: Mapping[str, Tensor],
) -> dict[Ids, float]:
    """How much likelier a question is after each reply than after one of no content, nats."""
    if not lines:
        return {}
    text = form.text
    head = f"Text: {subject}. " if subject else "Text: "
    asked = plain(text, PLAIN.format(question=question).removeprefix("Question:"))
    told = speaker.told(begun(text, SHOTS), weights)
    said = [*(text.decode(line) for line in lines), EMPTY]
    pairs = [(plain(text, f"{head}{reply}\nQuestion:"), asked) for reply in said]
    *found, none = [float(one.nats.sum()) for one in speaker.scores(told, pairs, weights)]
    return {line: nats - none for line, nats in zip(lines, found, strict=True)}
