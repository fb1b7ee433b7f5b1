"""Scores and generates many short replies after one text.

The text is read once. ``OneByOne`` works for any model; side_by_side.py is faster.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from nestling.continual.study.body import Ids
from nestling.models.functional import FunctionalModel


class Told(NamedTuple):
    """A text that was read; all prompts continue it."""

    ids: Ids
    context: Any  # the model's context after it; None: nothing was read


class Score(NamedTuple):
    """How likely an answer is."""

    nats: Float[Tensor, " N"]  # log-likelihood of each of its tokens
    said: bool  # whether it is the greedy continuation

    @property
    def mean(self) -> float:
        """Mean log-likelihood per token."""
        return float(self.nats.mean())


class Speaker(ABC):
    """Answers after a text with given weights; nothing is learned."""

    def __init__(self, reader: FunctionalModel):
        self.reader = reader

    @property
    def device(self) -> torch.device:
        """The device of the model."""
        return self.reader.model.device

    @torch.no_grad()
    def told(self, ids: Ids, weights: Mapping[str, Tensor] = {}) -> Told:
        """Read a text."""
        if not ids:
            return Told((), None)
        _, context = self.reader.read(weights, torch.tensor([ids], device=self.device))
        return Told(tuple(ids), context)

    @abstractmethod
    def scores(
        self, told: Told, asked: Sequence[tuple[Ids, Ids]], weights: Mapping[str, Tensor] = {}
    ) -> list[Score]:
        """The log-likelihood of each answer after its prompt; neither may be empty."""

    @abstractmethod
    def said(
        self,
        told: Told,
        prompts: Sequence[Ids],
        *,
        most: int,
        stop: frozenset[int],
        weights: Mapping[str, Tensor] = {},
        after: Sequence[Ids] = (),
    ) -> list[Ids]:
        """Greedy replies to each prompt, up to a token in ``stop``.

        ``after`` are texts between the shared text and each prompt; equal ones are read once.
        """


class OneByOne(Speaker):
    """Works with any model: each prompt is read by itself."""

    @torch.no_grad()
    def scores(
        self, told: Told, asked: Sequence[tuple[Ids, Ids]], weights: Mapping[str, Tensor] = {}
    ) -> list[Score]:
        """One call per answer."""
        found = []
        for prompt, answer in asked:
            given = torch.tensor([[*prompt, *answer[:-1]]], device=self.device)
            logits, _ = self.reader.read(weights, given, told.context)
            found.append(scored(logits[0, len(prompt) - 1 :], answer))
        return found

    @torch.no_grad()
    def said(
        self,
        told: Told,
        prompts: Sequence[Ids],
        *,
        most: int,
        stop: frozenset[int],
        weights: Mapping[str, Tensor] = {},
        after: Sequence[Ids] = (),
    ) -> list[Ids]:
        """One call per token."""
        contexts = {head: self._read_on(told.context, head, weights) for head in {*after, ()}}
        heads = after or [()] * len(prompts)
        return [
            self._said(contexts[head], prompt, most, stop, weights)
            for head, prompt in zip(heads, prompts, strict=True)
        ]

    def _read_on(self, context: Any, ids: Ids, weights: Mapping[str, Tensor]) -> Any:
        """A context, extended by tokens."""
        given = torch.tensor([ids], device=self.device)
        return self.reader.read(weights, given, context)[1] if ids else context

    def _said(
        self, context: Any, ids: Ids, most: int, stop: frozenset[int], weights: Mapping[str, Tensor]
    ) -> Ids:
        found: list[int] = []
        while len(found) < most:
            given = torch.tensor([ids], device=self.device)
            logits, context = self.reader.read(weights, given, context)
            token = int(logits[0, -1].argmax())
            if token in stop:
                break
            found.append(token)
            ids = (token,)
        return tuple(found)


def scored(logits: Float[Tensor, "N V"], answer: Ids) -> Score:
    """The log-likelihoods of an answer's tokens, from the logits before each."""
    own = logits.float().log_softmax(-1)
    wanted = torch.tensor(answer, device=logits.device)
    nats = own.gather(1, wanted[:, None])[:, 0]
    return Score(nats.cpu(), bool((own.argmax(-1) == wanted).all()))
