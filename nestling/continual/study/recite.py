"""Recites what was studied: asked its own questions again, a model repeats the sentences.

A memory keeps the questions about a document, not the document. The model has learned to answer
each with a sentence, so the questions are cues that bring the sentences back. Replies that study
did not make likelier are dropped, and so are invented ones, which are unlikely after any other
question.

Source: arXiv 2210.01296 (recite, then answer). Deviates: what is recited was learned by study, and
the cues are the model's own questions.
"""

from collections.abc import Iterable, Mapping, Sequence
from operator import is_not
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from nestling.continual.study.alike import Meant, meant
from nestling.continual.study.body import Ids
from nestling.continual.study.examine import by_sentence
from nestling.continual.study.form import Form
from nestling.continual.study.material import Question
from nestling.continual.study.record import Studied
from nestling.continual.study.routing import with_change_of
from nestling.continual.study.speaker import Score, Speaker

if TYPE_CHECKING:
    from nestling.continual.study.study import School

CUES = 6  # questions asked about each sentence
HEARD = 12  # tokens after which a sentence that is not remembered is dropped
TRIES = 3  # cues of a sentence whose replies begin alike that are followed to the end
LONGEST = 96  # maximum tokens of a sentence; unfinished ones are dropped
GAIN = 1.5  # mean gain by study of a learned sentence, nats per token
ALONE = -15.0  # log-likelihood of a remembered sentence of at most USUAL tokens, whatever was asked
USUAL = 25
FURTHER = -0.6  # of each further token
ANYTHING = "Go on."  # a question without content


class Sentence(NamedTuple):
    """A sentence learned by study."""

    ids: Ids  # with its end
    text: str
    meant: Meant
    source: str = ""  # the name of its document
    document: str = ""  # its checksum


class Asked:
    """A question read by a model with certain weights, to be continued by replies."""

    def __init__(self, speaker: Speaker, form: Form, question: str, weights: Mapping[str, Tensor]):
        prompt = form.prompt(question)
        self.speaker, self.form, self.weights = speaker, form, weights
        self.told = speaker.told((*form.opening, *prompt[:-1]), weights)
        self.last = prompt[-1:]

    def scores(self, replies: Iterable[Ids]) -> dict[Ids, Score]:
        """Log-likelihoods of replies, with or without an end token."""
        own = list(replies)
        pairs = [(self.last, reply) for reply in own]
        return dict(zip(own, self.speaker.scores(self.told, pairs, self.weights), strict=True))


def cues(questions: Sequence[Question]) -> list[list[str]]:
    """The likeliest of a document's own questions about each of its sentences."""
    best = [group[:CUES] for group in by_sentence(questions)]
    return [list(dict.fromkeys(one.question for one in group)) for group in best]


class Recital:
    """The sentences recited of each document, cached until its weights change."""

    def __init__(self) -> None:
        self._said: dict[str, tuple[tuple[object, ...], list[Sentence]]] = {}

    def of(self, school: "School", document: Studied) -> list[Sentence]:
        """The sentences of a document that the model remembers, in the order of its questions."""
        learner = school.learner
        base = learner.weights(studied=()).values()
        now = (*base, *with_change_of(document, learner.state.studied))
        old, found = self._said.get(document.sha256, ((), []))
        if len(old) != len(now) or any(map(is_not, old, now)):
            said = _said(school, document.questions, learner.weights_of(document))
            found = [
                Sentence(
                    one,
                    line,
                    meant(learner.reader, learner.text, line),
                    document.label,
                    document.sha256,
                )
                for one, line in said.items()
            ]
            self._said[document.sha256] = now, found
        return found


def recited(
    school: "School",
    questions: Sequence[Question],
    sentences: Sequence[str],
    weights: Mapping[str, Tensor],
) -> int:
    """How many sentences of a document the model recites word for word with ``weights``."""
    found = _said(school, questions, weights)
    said = {text.strip().lower() for text in found.values()}
    return sum(sentence.strip().lower() in said for sentence in sentences)


def _said(
    school: "School", questions: Sequence[Question], weights: Mapping[str, Tensor]
) -> dict[Ids, str]:
    """The sentences of a document that are remembered, with their text."""
    learner = school.learner
    before, asked = learner.weights(studied=()), cues(questions)
    ids = remembered(school.speaker, school.talk, asked, weights, before)
    return {one: learner.text.decode(one[:-1]) for one in ids}


@torch.no_grad()
def remembered(
    speaker: Speaker,
    form: Form,
    cues: Sequence[Sequence[str]],
    weights: Mapping[str, Tensor],
    before: Mapping[str, Tensor],
    least: float = ALONE,
) -> list[Ids]:
    """The distinct sentences, with end tokens, that a model gives to cues and finds likely anyway.

    ``cues`` has those of each sentence, ``before`` are the weights before study, ``least`` is the
    minimum log-likelihood of a remembered sentence after ANYTHING, in nats.
    """
    told = speaker.told(form.opening, weights)
    anything = Asked(speaker, form, ANYTHING, weights)
    base = Asked(speaker, form, ANYTHING, before)
    end = form.answer("")[-1:]

    def likely(replies: Iterable[Ids]) -> dict[Ids, float]:
        scores = anything.scores([ids for ids in dict.fromkeys(replies) if ids])
        sums = {ids: float(score.nats.sum()) for ids, score in scores.items()}
        return {
            ids: nats
            for ids, nats in sums.items()
            if nats >= least + FURTHER * max(0, len(ids) - USUAL)
        }

    def said(prompts: Sequence[Ids], most: int) -> list[Ids]:
        return speaker.said(told, prompts, most=most, stop=form.stop, weights=weights)

    prompts = [(number, form.prompt(cue)) for number, group in enumerate(cues) for cue in group]
    heard = said([prompt for _, prompt in prompts], HEARD)
    begun = likely(heard)
    going: dict[tuple[int, Ids], list[Ids]] = {}  # prompts by sentence and beginning of the reply
    for (number, prompt), ids in zip(prompts, heard, strict=True):
        if ids in begun:
            going.setdefault((number, ids), []).append(prompt)
    found: dict[tuple[int, Ids], Ids] = {}
    for turn in range(TRIES):
        left = [key for key, own in going.items() if key not in found and len(own) > turn]
        cut = [key for key in left if len(key[1]) >= HEARD]
        ends = said([(*going[key][turn], *key[1]) for key in cut], LONGEST - HEARD) if cut else ()
        rest = dict(zip(cut, ends, strict=True))
        whole = {key: (*key[1], *rest.get(key, ()), *end) for key in (cut if turn else left)}
        known = likely(ids for ids in whole.values() if len(ids) <= LONGEST)
        plain = base.scores(known)
        learned = {ids for ids, n in known.items() if n / len(ids) - plain[ids].mean >= GAIN}
        found.update({key: ids for key, ids in whole.items() if ids in learned})
    return list(dict.fromkeys(found[key] for key in going if key in found))
