"""Puts a server under load: streaming clients, documents to learn, and kills."""

import collections
import http.client
import random
import signal
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from nestling.core.error import UserError
from nestling.train.stop import stoppable
from nestling_lab.bench.served import Server, tiny_model
from nestling_lab.bench.turns import say

PROMPT = "What does the seal of pump {} cost?"
TEXT = "The seal of pump {0} costs {1} crowns. Pump {0} was made in Padua. Nobody may open it. "
SHARES = {"median": 0.5, "90 %": 0.9, "99 %": 0.99, "most": 1.0}
LEARNED = 20  # writes per studied document


class Answered(NamedTuple):
    """One streamed answer."""

    first: float  # seconds until the first text
    whole: float  # seconds until the end
    tokens: int


@dataclass
class Load:
    """The observations of the clients and the learner, each in its own lists."""

    server: Server
    until: float = 0.0  # time.monotonic
    stop: threading.Event = field(default_factory=threading.Event)  # ends it early
    answers: list[Answered] = field(default_factory=list)
    errors: collections.Counter[str] = field(default_factory=collections.Counter)
    broken: int = 0  # requests interrupted by a kill
    jobs: collections.Counter[str] = field(default_factory=collections.Counter)  # by final status
    resident: list[float] = field(default_factory=list)  # MiB, one per second
    learning: bool = False  # whether an accepted document is still being learned
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def going(self) -> bool:
        """Whether there is time left."""
        return time.monotonic() < self.until and not self.stop.is_set()

    def keep_at(self, work: Callable[[], None]) -> None:
        """Repeat ``work`` until the time is over, and count failures by message."""
        while self.going:
            life = self.server.life
            try:
                work()
            except (OSError, http.client.HTTPException, UserError) as error:
                with self.lock:
                    # killed, and perhaps already up again
                    if life != self.server.life or not self.server.up.is_set():
                        self.broken += 1
                    else:
                        self.errors[f"{type(error).__name__}: {error}"[:200]] += 1
                self.server.up.wait(max(0.0, self.until - time.monotonic()))

    def ask(self, number: int, memory: str | None, tokens: int) -> None:
        """Stream one answer."""
        asked = [{"role": "user", "content": PROMPT.format(number)}]
        body: dict[str, Any] = {
            "model": self.server.name, "messages": asked, "max_tokens": tokens, "stream": True,
            "temperature": 1.0, "seed": number, "stream_options": {"include_usage": True},
        }  # fmt: skip
        if memory is not None:
            body["memory"] = memory
        began, first, written, finish = time.monotonic(), None, 0, None
        for event in self.server.events("/v1/chat/completions", body):
            if "error" in event:
                raise UserError(event["error"]["message"])
            for choice in event["choices"]:
                finish = choice["finish_reason"] or finish
                if first is None and (choice["delta"].get("content") or finish):
                    first = time.monotonic() - began
            if usage := event.get("usage"):
                written = usage["completion_tokens"]
        if first is None or finish not in ("stop", "length"):
            raise UserError(f"a stream ended with finish_reason {finish}")
        self.answers.append(Answered(first, time.monotonic() - began, written))

    def learn(self) -> None:
        """Have a new memory learn a document, and wait until it is done."""
        number = sum(self.jobs.values())
        memory = f"learned-{number}-{self.server.life}"
        place = f"/v1/memories/{memory}"
        expect(self.server.call("POST", "/v1/memories", {"id": memory}), 201)
        text = TEXT.format(number, number + 7)
        job = expect(self.server.call("POST", f"{place}/jobs", {"text": text}), 202)["id"]
        self.learning = True
        while self.going:
            self.server.up.wait(max(0.0, self.until - time.monotonic()))
            life = self.server.life
            try:
                state = expect(self.server.call("GET", f"{place}/jobs/{job}"), 200)["state"]
            except OSError:
                if life == self.server.life and self.server.up.is_set():
                    raise
                continue
            if state in ("done", "failed", "cancelled"):
                self.learning = False
                self.jobs[state] += 1
                expect(self.server.call("DELETE", place), 200)
                return
            self.stop.wait(0.2)

    def watch(self) -> None:
        """Record the server's memory once a second."""
        if self.server.up.is_set():
            self.resident.append(self.server.resident_mib())
        self.stop.wait(1)


def expect(found: tuple[int, Any], status: int) -> Any:
    """The JSON of a response. Raises UserError if it has another status."""
    if found[0] != status:
        raise UserError(f"status {found[0]} instead of {status}: {found[1]}")
    return found[1]


def load(
    folder: Path,
    *,
    model: str = "",
    clients: int = 64,
    seconds: float = 300.0,
    tokens: int = 64,
    memories: int = 3,
    learning: bool = True,
    kills: int = 0,
    seed: int = 0,
    quiet: bool = False,
) -> dict[str, Any]:
    """Serve a model (by default a tiny random one) to many clients that stream answers at once.

    Each client asks one of ``memories`` memories, or the model without one, and asks again as soon
    as it has its answer. With ``learning``, documents are learned meanwhile, one after another. The
    server is killed ``kills`` times (SIGKILL) at random times and restarted on its store. Returns
    answers, errors by message, requests interrupted by kills, latencies in seconds, tokens per
    second, the server's memory over time in MiB, jobs by final status, and whether every memory
    gives the same answer at the end as at the start. Ctrl-C or SIGTERM ends the server too and
    raises UserError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    served = Path(model) if model else tiny_model(folder)
    server = Server(
        served, folder / "store", "--limits.rate", "1000000000", "--budget", str(LEARNED)
    )
    with stoppable() as stop:
        server.start()
        try:
            names = [f"memory-{number}" for number in range(memories)]
            for number, name in enumerate(names):
                _teach(server, name, number)
            before = [_answer(server, name) for name in (None, *names)]
            found = Load(server, until=time.monotonic() + seconds, stop=stop)
            say(f"{clients} clients for {seconds:.0f} seconds", quiet)
            restarts = _run(found, clients, [None, *names], tokens, learning, kills, seed)
            after = [_answer(server, name) for name in (None, *names)]
        finally:
            status = server.end() if server.up.is_set() else server.end(signal.SIGKILL)
    if stop.is_set():
        raise UserError("stopped early, so nothing was measured; the server has ended")
    return summary(found, seconds) | {
        "killed": kills,
        "documents_open_when_killed": sum(was for was, _ in restarts),
        "restarts_that_said_so": sum(told for was, told in restarts if was),
        "memories_kept": f"{sum(map(str.__eq__, before, after))} of {len(before)}",
        "exit_status": status,
    }


def _run(
    found: Load,
    clients: int,
    names: Sequence[str | None],
    tokens: int,
    learning: bool,
    kills: int,
    seed: int,
) -> list[tuple[bool, bool]]:
    """Run all threads until the time is over; for each kill, whether a document was interrupted
    and reported."""
    draw, restarts, began = random.Random(seed), [], time.monotonic()
    moments = sorted(draw.uniform(began, found.until) for _ in range(kills))
    with ThreadPoolExecutor(clients + 2) as pool:
        work = [
            pool.submit(
                found.keep_at,
                lambda number=number: found.ask(number, names[number % len(names)], tokens),
            )
            for number in range(clients)
        ]
        work.append(pool.submit(found.keep_at, found.watch))
        if learning:
            work.append(pool.submit(found.keep_at, found.learn))
        for moment in moments:
            if found.stop.wait(max(0.0, moment - time.monotonic())):
                break
            found.server.end(signal.SIGKILL)
            was = found.learning
            found.resident.clear()  # it belonged to another process
            found.server.start()
            restarts.append((was, "unfinished documents resume" in found.server.said))
        for one in work:
            one.result()
    return restarts


def _teach(server: Server, memory: str, number: int) -> None:
    """Create a memory that has learned a document."""
    expect(server.call("POST", "/v1/memories", {"id": memory}), 201)
    place, text = f"/v1/memories/{memory}/jobs", TEXT.format(100 + number, 3 * number + 5)
    job = expect(server.call("POST", place, {"text": text}), 202)["id"]
    while (now := expect(server.call("GET", f"{place}/{job}"), 200))["state"] != "done":
        if now["state"] == "failed":
            raise UserError(f"a document was not learned: {now['message']}")
        time.sleep(0.05)


def _answer(server: Server, memory: str | None) -> str:
    """The greedy answer to one question."""
    body = {"model": server.name, "prompt": PROMPT.format(100), "max_tokens": 24, "memory": memory}
    return expect(server.call("POST", "/v1/completions", body), 200)["choices"][0]["text"]


def summary(found: Load, seconds: float) -> dict[str, Any]:
    """The figures of a load test."""
    resident = found.resident
    tenth = max(1, len(resident) // 10)
    # the first tenth is warming up
    first, last = resident[tenth : 2 * tenth] or resident, resident[-tenth:]
    return {
        "answers": len(found.answers),
        "errors": sum(found.errors.values()),
        "errors_by_message": dict(found.errors),
        "cut_off_by_a_kill": found.broken,
        "tokens_per_second": sum(one.tokens for one in found.answers) / seconds,
        "seconds_to_first_text": shares([one.first for one in found.answers]),
        "seconds_of_an_answer": shares([one.whole for one in found.answers]),
        "documents": dict(found.jobs),
        "rss_mib": resident[:: max(1, len(resident) // 60)],
        "rss_growth_mib": statistics.median(last) - statistics.median(first) if last else None,
    }


def shares(values: Sequence[float]) -> dict[str, float]:
    """Percentiles of the values (nearest rank).

    >>> shares([0.3, 0.1, 0.2, 0.4])
    {'median': 0.2, '90 %': 0.4, '99 %': 0.4, 'most': 0.4}
    """
    ordered = sorted(values)
    ranks = {name: max(0, round(len(ordered) * q + 0.4999) - 1) for name, q in SHARES.items()}
    return {name: ordered[rank] for name, rank in ranks.items()} if ordered else {}
