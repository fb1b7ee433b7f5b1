"""Pass requests to the engine and answers back, without blocking the event loop."""

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import NamedTuple

from nestling.continual.study.recall import Reply
from nestling.serve.bodies import Asked
from nestling.serve.engine import Answer, Piece
from nestling.serve.errors import Refused
from nestling.serve.knowledge import Known
from nestling.serve.sampling import Sampling
from nestling.serve.speech import Speech
from nestling.serve.state import Shared

DEFAULT = 256  # default tokens of an answer


class Prompt(NamedTuple):
    """The prompt of an answer."""

    ids: list[int]
    stops: tuple[str, ...] = ()
    trim: bool = False  # whether to strip leading whitespace of the answer
    before: str = ""  # text before the answer: the prompt, with ``echo``
    about: str = ""  # text that says what the answer is about, to choose what a memory knows


class Said(NamedTuple):
    """A piece of one of the answers, by index."""

    number: int
    piece: Piece


class Answers:
    """The answers of one request, generated together."""

    def __init__(
        self,
        server: Shared,
        asked: Asked,
        prompts: Sequence[Prompt],
        known: Sequence[Known],
        most: int | None,
        recall: Callable[[], Awaitable[Reply | None]] | None = None,
    ):
        limits = server.settings.limits
        self.server = server
        self.prompts = [prompt for prompt in prompts for _ in range(asked.n)]
        self.read = sum(len(prompt.ids) for prompt in prompts)  # tokens
        server.metrics.read.inc(self.read)
        self._queue: asyncio.Queue[Said] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        seed = secrets.randbits(62) if asked.seed is None else asked.seed
        deadline = time.monotonic() + limits.seconds
        self.recall = recall
        self.source: str | None = None  # the document that the answer was recalled from
        first = [
            one if recall is None or one.before is None else one.before
            for one in known
            for _ in range(asked.n)
        ]
        self.answers = [
            Answer(
                ids=prompt.ids,
                speech=Speech(
                    server.served.text.decode, (*asked.stops, *prompt.stops), trim=prompt.trim
                ),
                tell=self._teller(number),
                most=_most(server, prompt, most),
                ends=server.served.ends,
                sampling=Sampling(
                    temperature=asked.temperature or 0.0,
                    top_p=asked.top_p or 1.0,
                    top_k=asked.top_k or 0,
                    seed=(seed + number) % 2**63,
                ),
                deadline=deadline,
                weights=own.weights,
                key=own.key,
                added=own.added,
            )
            for number, (prompt, own) in enumerate(zip(self.prompts, first, strict=True))
        ]

    def _teller(self, number: int) -> Callable[[Piece], None]:
        def tell(piece: Piece) -> None:
            with contextlib.suppress(RuntimeError):  # the loop ended before the thread
                self._loop.call_soon_threadsafe(self._queue.put_nowait, Said(number, piece))

        return tell

    def begin(self) -> None:
        """Recall first if asked to; otherwise submit them to the engine, which may refuse."""
        if self.recall is None:
            self.server.engine.submit(self.answers)

    async def _recall(self) -> None:
        """Send the recalled answer; if there is none, the engine answers as before study."""
        if self.recall is None:
            return
        [answer] = self.answers
        reply = await self.recall()
        if reply is None:
            self.server.engine.submit(self.answers)
            return
        self.source = reply.source
        if all(answer.take(token) for token in reply.ids):
            answer.end()

    @property
    def about(self) -> dict[str, str | None]:
        """Fields of a response beyond OpenAI's, known from the first piece on."""
        return {} if self.recall is None else {"source": self.source}

    async def pieces(self) -> AsyncGenerator[Said]:
        """Yield all pieces as they are generated; leaving early cancels the answers."""
        left = len(self.answers)
        try:
            await self._recall()
            while left:
                said = await self._queue.get()
                if said.piece.finish == "error":
                    raise Refused(503, "the answer was interrupted; ask again", "broken_off")
                if said.piece.finish == "timeout":
                    seconds = self.server.settings.limits.seconds
                    raise Refused(504, f"the answer took more than {seconds:g} seconds", "timeout")
                self.server.metrics.written.inc(said.piece.tokens)
                left -= said.piece.finish is not None
                yield said
        finally:
            for answer in self.answers:
                answer.cancelled = True

    async def whole(self) -> list[tuple[str, str, int]]:
        """Each answer with its finish reason and tokens, once all are complete."""
        texts = [prompt.before for prompt in self.prompts]
        ends, counts = ["stop"] * len(texts), [0] * len(texts)
        async with contextlib.aclosing(self.pieces()) as pieces:
            async for number, piece in pieces:
                texts[number] += piece.text
                counts[number] += piece.tokens
                ends[number] = piece.finish or ends[number]
        return list(zip(texts, ends, counts, strict=True))


def check(server: Shared, asked: Asked, prompts: int) -> None:
    """Raise Refused for a request that cannot be answered, with this number of prompts."""
    if asked.unknown:
        name = asked.unknown[0]
        raise Refused(400, f"{name} is not supported here; leave it out", param=name)
    if asked.model != server.served.name:
        raise Refused(
            404,
            f"there is no such model; this server has {server.served.name!r}",
            "model_not_found",
            param="model",
        )
    rows = server.settings.limits.rows
    if prompts * asked.n > rows:
        raise Refused(400, f"more than {rows} answers at once; ask for fewer", param="n")


def _most(server: Shared, prompt: Prompt, wanted: int | None) -> int:
    """The largest length of an answer; a prompt that leaves no room raises Refused."""
    limit, most = server.served.limit, server.settings.limits.tokens
    room = most if limit is None else min(most, limit - len(prompt.ids))
    if room < 1 or (limit is None and len(prompt.ids) > server.settings.limits.prompt):
        there = server.settings.limits.prompt if limit is None else limit
        raise Refused(
            400,
            f"the prompt has {len(prompt.ids)} tokens and the context holds {there}; shorten it",
            "context_length_exceeded",
            param="messages",
        )
    return min(room, DEFAULT if wanted is None else wanted)


def usage(read: int, written: int) -> dict[str, int]:
    """The token counts of a request."""
    return {
        "prompt_tokens": read,
        "completion_tokens": written,
        "total_tokens": read + written,
    }
