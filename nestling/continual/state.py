"""The state of a learner between two tokens: a value that can be kept, copied and saved."""

from dataclasses import dataclass
from typing import Any, NamedTuple

from nestling.continual.average import Average
from nestling.continual.study.record import Open, Studied, Waiting
from nestling.core.error import UserError
from nestling.rules.level import LevelState


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a stream is read."""

    # tokens read with one set of weights, and back through which gradients flow; divides every
    # period; None: the fastest period, or its largest divisor that is not above 512
    segment: int | None = None
    # most tokens of a document that a token sees; None: 1,024, or what the model was made for, and
    # no limit for memories that do not grow
    window: int | None = None
    # nats: tokens that were predicted with less loss write nothing; None: every token writes
    surprise: float | None = None
    # tokens of running averages of all that levels write: each is an expert of the gate "levels"
    # (``nestling.continual.average``); None: there are none
    averages: tuple[int, ...] | None = None

    def __post_init__(self):
        for name in ("segment", "window"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise UserError(f"{name} is {value}; give at least 1 token")


def no_level(level: int, count: int) -> UserError:
    """The error for the number of a level that does not exist, of ``count`` levels."""
    if count == 0:
        return UserError(
            f"there is no level {level}: this memory has no levels, it is written by study; forget "
            "a document, or reset without a level to take everything back"
        )
    there = "level 0 is the only one" if count == 1 else f"levels are 0 to {count - 1}"
    return UserError(f"there is no level {level}; {there}")


class Document(NamedTuple):
    """A text that was read or is being read."""

    name: str
    sha256: str  # of its tokens
    tokens: int
    read: int  # tokens taken in so far


class Stream(NamedTuple):
    """The current position in the stream of documents."""

    tokens: int = 0  # read in whole segments
    open_ids: tuple[int, ...] = ()  # tokens that wait for their segment to fill
    open_starts: tuple[int, ...] = ()  # which of them begin a document
    last: int | None = None  # the token before the next segment, if of the same document
    window: tuple[int, ...] = ()  # the tokens in the context
    context: Any = (
        None  # what the model remembers of them (nestling.models.functional.FunctionalModel)
    )


class State(NamedTuple):
    """Everything the next token depends on, apart from the model."""

    levels: tuple[LevelState, ...]  # of the levels that are written, slow to fast
    stream: Stream = Stream()
    documents: tuple[Document, ...] = ()
    averages: tuple[Average, ...] = ()  # slow to fast
    waiting: tuple[Waiting, ...] = ()  # documents that are yet to be studied
    open: Open | None = None  # how far the study of the first of them has come
    studied: tuple[Studied, ...] = ()  # what study has taught, document by document
    own: tuple[tuple[int, ...], ...] = ()  # token ids of texts the base wrote, to be held to


@dataclass(frozen=True, kw_only=True)
class Reading:
    """The result of reading: losses from before each token was learned."""

    tokens: int = 0  # taken in
    scored: int = 0  # tokens with a loss: all but the first of a document and those that wait
    nats: float = 0.0  # the sum of their losses
    learned: int = 0  # tokens whose gradient was gathered
    writes: tuple[int, ...] = ()  # of each written level, slow to fast

    @property
    def loss(self) -> float:
        """Nats per scored token."""
        return self.nats / self.scored if self.scored else float("nan")

    def __add__(self, other: "Reading") -> "Reading":
        pairs = zip(self.writes, other.writes, strict=True)
        writes = tuple(a + b for a, b in pairs) if self.writes and other.writes else None
        return Reading(
            tokens=self.tokens + other.tokens,
            scored=self.scored + other.scored,
            nats=self.nats + other.nats,
            learned=self.learned + other.learned,
            writes=writes or self.writes or other.writes,
        )
