"""A model that is asked many short things after one text: how likely answers are, and what it says.

The text is read once. ``OneByOne`` does it for any model; the fastest way is in side_by_side.py.
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
    """A text that was read: everything asked is asked after it."""

    ids: Ids
    context: Any  # what the model remembers of it; None: nothing was read


class Score(NamedTuple):
    """How likely an answer is."""

    nats: Float[Tensor, " N"]  # log-likelihood of each of its tokens
    said: bool  # it is what the model would write, token for token

    @property
    def mean(self) -> float:
        """Log-likelihood of a token, in the mean."""
        return float(self.nats.mean())


class Speaker(ABC):
    """Answers after a text, with weights that are handed in; nothing is learned."""

    def __init__(self, reader: FunctionalModel):
        self.reader = reader

    @property
    def device(self) -> torch.device:
        """Where the model is."""
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
        """How likely each answer is after its prompt; neither may be empty."""

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
        """What the model says after each prompt: the likeliest tokens until one of ``stop``.

        ``after`` is what comes before each prompt, behind what was told; equal ones are read once.
        """


class OneByOne(Speaker):
    """Any model: each prompt is read by itself."""

    @torch.no_grad()
    def scores(
        self, told: Told, asked: Sequence[tuple[Ids, Ids]], weights: Mapping[str, Tensor] = {}
    ) -> list[Score]:
        """A call for each."""
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
        """A call for each token."""
        contexts = {head: self._read_on(told.context, head, weights) for head in {*after, ()}}
        heads = after or [()] * len(prompts)
        return [
            self._said(contexts[head], prompt, most, stop, weights)
            for head, prompt in zip(heads, prompts, strict=True)
        ]

    def _read_on(self, context: Any, ids: Ids, weights: Mapping[str, Tensor]) -> Any:
        """A context, and more."""
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
    """How likely the tokens of an answer are, of the logits where each is wanted."""
    own = logits.float().log_softmax(-1)
    wanted = torch.tensor(answer, device=logits.device)
    nats = own.gather(1, wanted[:, None])[:, 0]
    return Score(nats.cpu(), bool((own.argmax(-1) == wanted).all()))
