"""Asks continual learners questions, answered by the likelihood of each choice."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import singledispatch
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nestling.continual.methods import GradientMethod, InContext, Levels, Method, Retrieval
from nestling.data import prompt_ids
from nestling.models.functional import FunctionalModel
from nestling.tasks.task import Question

Ids = tuple[int, ...]
FILL = 0  # padding token; any will do, as it comes after everything that is scored


class Asked(NamedTuple):
    """A question as token ids."""

    prompt: Ids
    choices: tuple[Ids, ...]
    right: int  # index of the right choice


class Answered(NamedTuple):
    """The outcome of a question."""

    right: bool  # whether the most likely choice is the right one
    margin: float  # nats: log-likelihood of the right choice minus the mean of the others
    nats: float  # -log of the right choice's share of the total likelihood
    said: bool  # whether greedy decoding gives the right answer, token for token

    def record(self) -> list[float]:
        """A short JSON record."""
        return [float(self.right), round(self.margin, 4), round(self.nats, 4), float(self.said)]


class View(NamedTuple):
    """How a method answers: a model, its weights, and the prefix before a prompt."""

    reader: FunctionalModel
    weights: Mapping[str, Tensor]
    prefix: Callable[[Ids], Ids]


@singledispatch
def view(method: Method) -> View:
    """The current view of a method."""
    raise TypeError(f"{type(method).__name__} cannot be asked")


@view.register
def _(method: GradientMethod) -> View:
    return View(method.reader, {}, lambda prompt: ())


@view.register
def _(method: Levels) -> View:
    return View(method.learner.reader, method.learner.weights(), lambda prompt: ())


@view.register
def _(method: InContext) -> View:
    return View(method.reader, {}, lambda prompt: method.prefix)


@view.register
def _(method: Retrieval) -> View:
    return View(method.reader, {}, method.prefix)


def encode_question(tokenizer: Any, question: Question) -> Asked:
    """Encode a question."""

    def ids(text: str) -> Ids:
        return tuple(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    choices = tuple(ids(question.joint + choice) for choice in question.choices)
    right = question.choices.index(question.answers[0])
    return Asked(tuple(prompt_ids(tokenizer, question.prompt)), choices, right)


def answers(how: View, questions: Sequence[Asked]) -> list[Answered]:
    """Answer the questions independently, without learning from them."""
    groups: dict[Ids, list[int]] = {}
    for number, question in enumerate(questions):
        groups.setdefault(tuple(how.prefix(question.prompt)), []).append(number)
    found: dict[int, Answered] = {}
    for prefix, numbers in groups.items():
        told = _likelihoods(how, prefix, [questions[number] for number in numbers])
        found.update(zip(numbers, told, strict=True))
    return [found[number] for number in range(len(questions))]


def paths(question: Asked) -> list[Ids]:
    """The distinct texts to read so that every token of every choice has a prediction.

    >>> paths(Asked((1, 2), ((3,), (4, 5), (6,)), 0))
    [(1, 2, 4)]
    """
    whole = {(*question.prompt, *choice[:-1]) for choice in question.choices}
    return sorted(a for a in whole if not any(a != b and b[: len(a)] == a for b in whole))


@torch.no_grad()
def _likelihoods(how: View, prefix: Ids, questions: Sequence[Asked]) -> list[Answered]:
    """Read the prefix once, then all texts of all questions in parallel."""
    texts = [paths(question) for question in questions]
    rows = [path for found in texts for path in found]
    longest, device = max(map(len, rows)), how.reader.model.device
    given = torch.tensor([[*row, *[FILL] * (longest - len(row))] for row in rows], device=device)
    context = None
    if prefix:
        _, context = how.reader.read(how.weights, torch.tensor([prefix], device=device))
        context = tuple(
            tuple(x.expand(len(rows), *x.shape[1:]).contiguous() for x in pair) for pair in context
        )
    logits, _ = how.reader.read(how.weights, given, context)
    found, first = [], 0
    for question, own in zip(questions, texts, strict=True):
        places = dict(zip(own, range(first, first + len(own)), strict=True))
        first += len(own)
        found.append(_judge(question, logits, places))
    return found


def _judge(question: Asked, logits: Tensor, places: Mapping[Ids, int]) -> Answered:
    nats, said = [], []
    for choice in question.choices:
        start = (*question.prompt, *choice[:-1])
        row = next(row for path, row in places.items() if path[: len(start)] == start)
        begin = len(question.prompt) - 1
        own = logits[row, begin : begin + len(choice)].double().log_softmax(-1)
        tokens = torch.tensor(choice, device=own.device)
        nats.append(float(own.gather(1, tokens[:, None]).sum()))
        said.append(bool((own.argmax(1) == tokens).all()))
    right, best = question.right, max(nats)
    others = [value for place, value in enumerate(nats) if place != right]
    total = best + math.log(sum(math.exp(value - best) for value in nats))
    return Answered(
        nats[right] > max(others),
        nats[right] - sum(others) / len(others),
        total - nats[right],
        said[right],
    )
