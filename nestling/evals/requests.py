"""What a harness asks of a model: scores of continuations, of whole texts, and texts to write."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from nestling.core.error import UserError
from nestling.evals.lm import windows
from nestling.evals.progress import Tell, silent
from nestling.evals.reader import Reader


class Ask(NamedTuple):
    """A continuation to be scored after a context, both as token ids."""

    context: tuple[int, ...]
    continuation: tuple[int, ...]


class Memory:
    """Answers requests, each from a fresh memory, or one after another with one that goes on.

    ``carry``: the context of a request is read after those of all requests before it, of whichever
    kind; what is scored or written leaves no trace. Requests that follow each other with the same
    context (the choices of one question) read it once. Only a model without a horizon carries.
    ``before``: every request is read after this memory, which has read ``seen`` and stays as it is.
    """

    def __init__(
        self,
        reader: Reader,
        *,
        carry: bool = False,
        before: Any = None,
        seen: Sequence[int] = (),
    ):
        if carry and reader.horizon is not None:
            raise UserError(
                f"{reader.name} reads {reader.horizon} tokens at most, so its memory cannot be "
                "carried from request to request; leave out --carry"
            )
        self.reader, self.carry = reader, carry
        self.cache: Any = before
        self.seen = list(seen)

    def _room(self, context: Sequence[int], more: int) -> list[int]:
        """The end of a context that leaves room for ``more`` tokens; where it must be cut."""
        horizon = self.reader.horizon
        if horizon is None:
            return list(context)
        room = horizon - len(self.seen) - more
        if room < 1:
            raise UserError(f"{more} tokens do not fit into the {horizon} that the model reads")
        return list(context[-room:])

    def _read(self, context: list[int]) -> tuple[torch.Tensor, Any]:
        before = None if self.cache is None else self.reader.fork(self.cache)
        logits, cache = self.reader.read(torch.tensor([context]), before)
        if self.carry:
            self.cache = self.reader.fork(cache)
            self.seen += context
        return logits, cache

    def score(self, asks: Sequence[Ask], tell: Tell = silent) -> list[tuple[float, bool]]:
        """Log-probability of each continuation, and whether it is the likeliest at each token.

        ``tell`` counts the asks that are answered.
        """
        found: list[tuple[float, bool]] = []
        start = 0
        while start < len(asks):
            end = start
            while end < len(asks) and asks[end].context == asks[start].context:
                end += 1
            group = [list(ask.continuation) for ask in asks[start:end]]
            # the last token of a continuation is predicted and not read
            context = self._room(asks[start].context, max(map(len, group)) - 1)
            logits, cache = self._read(context)
            found += self.reader.score(cache, logits, group)
            start = end
            tell(end, len(asks))
        return found

    def score_text(self, text: str) -> float:
        """Log-probability of a text from its first token on; read in windows where it must be."""
        reader = self.reader
        if self.carry or self.cache is not None:
            ids = [*reader.start, *reader.encode(text)]
            cache = self.cache if self.cache is None else reader.fork(self.cache)
            logits, cache = reader.read(torch.tensor([ids[:1]]), cache)
            first = float(logits.log_softmax(-1)[0, ids[1]])
            nats = sum(float(x.sum()) for x in reader.losses(torch.tensor([ids[1:]]), cache))
            if self.carry:
                _, self.cache = reader.read(torch.tensor([ids[-1:]]), cache)
                self.seen += ids
            return first - nats
        rows = windows(reader, reader.encode(text))
        lead = len(reader.start)
        total = 0.0
        for row in rows:
            losses = torch.cat(list(reader.losses(torch.tensor([row]))), 1)[0]
            total -= float(losses[lead - 1 :].double().sum())
        return total

    def write(self, context: Sequence[int], *, tokens: int, stops: tuple[str, ...]) -> str:
        """The likeliest continuation, at most ``tokens`` long, up to the first of ``stops``."""
        ids = self._room(context, tokens)
        before = None if self.cache is None else self.reader.fork(self.cache)
        text = self.reader.write(ids, tokens=tokens, stops=stops, cache=before)
        if self.carry:
            before = None if self.cache is None else self.reader.fork(self.cache)
            _, self.cache = self.reader.read(torch.tensor([ids]), before)
            self.seen += ids
        return text
