"""The requests of a harness: score continuations, score whole texts, and generate."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch.nn import functional

from nestling.core.error import UserError
from nestling.evals.progress import Tell, silent
from nestling.evals.reader import Reader
from nestling.evals.windows import fill, windows


class Ask(NamedTuple):
    """A continuation to score after a context, both as token ids."""

    context: tuple[int, ...]
    continuation: tuple[int, ...]


class Memory:
    """Answers requests, each with an empty memory, or with one memory that continues.

    With ``carry``, the contexts of all earlier requests are read before that of a request; scored
    and generated text leaves no trace. Consecutive requests with the same context (the choices of
    one question) read it once. This needs a model without a horizon. With ``before``, every
    request is read after this memory, which has read ``seen`` and is not changed. Requests with an
    empty memory are read ``batch`` at a time, each whole.
    """

    def __init__(
        self,
        reader: Reader,
        *,
        carry: bool = False,
        before: Any = None,
        seen: Sequence[int] = (),
        batch: int = 1,
    ):
        if batch < 1 or batch > 1 and carry:
            raise UserError(f"batch is {batch}; give at least 1, and 1 with --carry")
        if carry and reader.horizon is not None:
            raise UserError(
                f"{reader.name} reads at most {reader.horizon} tokens, so its memory cannot be "
                "carried from request to request; leave out --carry"
            )
        self.reader, self.carry, self.batch = reader, carry, batch
        self.cache: Any = before
        self.seen = list(seen)

    def _room(self, context: Sequence[int], more: int) -> list[int]:
        """The context, cut on the left if needed to leave room for ``more`` tokens."""
        horizon = self.reader.horizon
        if horizon is None:
            return list(context)
        room = horizon - len(self.seen) - more
        if room < 1:
            raise UserError(f"{more} tokens are too many: the model reads at most {horizon}")
        return list(context[-room:])

    def _read(self, context: list[int]) -> tuple[torch.Tensor, Any]:
        before = None if self.cache is None else self.reader.fork(self.cache)
        logits, cache = self.reader.read(torch.tensor([context]), before)
        if self.carry:
            self.cache = self.reader.fork(cache)
            self.seen += context
        return logits, cache

    def score(self, asks: Sequence[Ask], tell: Tell = silent) -> list[tuple[float, bool]]:
        """The log-probability of each continuation, and whether greedy decoding would give it.

        ``tell`` is called with the number of answers so far.
        """
        if self.batch > 1 and self.cache is None:
            return self._score_rows(asks, tell)
        found: list[tuple[float, bool]] = []
        start = 0
        while start < len(asks):
            end = start
            while end < len(asks) and asks[end].context == asks[start].context:
                end += 1
            group = [list(ask.continuation) for ask in asks[start:end]]
            # the last token of a continuation is predicted, but not read
            context = self._room(asks[start].context, max(map(len, group)) - 1)
            logits, cache = self._read(context)
            found += self.reader.score(cache, logits, group)
            start = end
            tell(end, len(asks))
        return found

    def _score_rows(self, asks: Sequence[Ask], tell: Tell) -> list[tuple[float, bool]]:
        """``score`` with each context and its continuation as one row, longest rows first."""
        rows = [
            (self._room(ask.context, len(ask.continuation) - 1), list(ask.continuation))
            for ask in asks
        ]
        order = sorted(range(len(rows)), key=lambda i: -sum(map(len, rows[i])))
        found: list[tuple[float, bool]] = [(0.0, True)] * len(rows)
        for at in range(0, len(rows), self.batch):
            part = order[at : at + self.batch]
            ids, lengths = fill([rows[i][0] + rows[i][1] for i in part])
            begin = torch.tensor([[len(rows[i][0])] for i in part])
            sums, likeliest = torch.zeros(len(part), dtype=torch.float64), []
            place = 1
            for logits, targets in self.reader.predictions(ids):
                where = torch.arange(place, place + targets.shape[1]).expand_as(targets)
                scored = (where >= begin) & (where < lengths[:, None])
                words = logits.float().flatten(0, 1)
                nats = functional.cross_entropy(
                    words, targets.to(words.device).flatten(), reduction="none"
                )
                sums -= (nats.view(targets.shape).cpu().double() * scored).sum(1)
                right = words.argmax(-1).view(targets.shape).cpu() == targets
                likeliest.append((right | ~scored).all(1))
                place += targets.shape[1]
            whole = torch.stack(likeliest).all(0) if likeliest else torch.ones(len(part)).bool()
            for i, nats, sure in zip(part, sums.tolist(), whole.tolist(), strict=True):
                found[i] = (nats, sure)
            tell(min(at + self.batch, len(rows)), len(rows))
        return found

    def score_text(self, text: str) -> float:
        """The log-probability of a text from its first token on, read in windows if needed."""
        reader = self.reader
        tokens = reader.encode(text)
        if not tokens:
            return 0.0
        if self.carry or self.cache is not None:
            cache = None if self.cache is None else reader.fork(self.cache)
            logits, cache = reader.read(torch.tensor([reader.start]), cache)
            first = float(logits.log_softmax(-1)[0, tokens[0]])
            nats = sum(float(x.sum()) for x in reader.losses(torch.tensor([tokens]), cache))
            if self.carry:
                _, self.cache = reader.read(torch.tensor([tokens[-1:]]), cache)
                self.seen += [*reader.start, *tokens]
            return first - nats
        total = 0.0
        for window in windows(reader, tokens):
            losses = torch.cat(list(reader.losses(torch.tensor([window.ids]))), 1)[0]
            total -= float(losses[window.begin - 1 :].double().sum())
        return total

    def write(
        self, context: Sequence[int], *, tokens: int, stops: tuple[str, ...], **generation: Any
    ) -> str:
        """Generate at most ``tokens`` tokens, greedily by default, up to the first of ``stops``.

        ``generation`` are further options of ``generate``, see ``Reader.write``.
        """
        ids = self._room(context, tokens)
        before = None if self.cache is None else self.reader.fork(self.cache)
        text = self.reader.write(ids, tokens=tokens, stops=stops, cache=before, **generation)
        if self.carry:
            before = None if self.cache is None else self.reader.fork(self.cache)
            _, self.cache = self.reader.read(torch.tensor([ids]), before)
            self.seen += ids
        return text

    def write_all(
        self,
        contexts: Sequence[Sequence[int]],
        *,
        tokens: int,
        stops: tuple[str, ...],
        tell: Tell = silent,
        **generation: Any,
    ) -> list[str]:
        """``write`` for every context, one after another or ``batch`` at a time."""
        options: dict[str, Any] = {"tokens": tokens, "stops": stops, **generation}
        found: list[str] = []
        for at in range(0, len(contexts), self.batch):
            part = contexts[at : at + self.batch]
            if len(part) > 1 and self.cache is None:
                rows = [self._room(context, tokens) for context in part]
                found += self.reader.write_rows(rows, **options)
            else:
                found += [self.write(context, **options) for context in part]
            tell(len(found), len(contexts))
        return found
