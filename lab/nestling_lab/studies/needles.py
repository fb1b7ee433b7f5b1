"""Models that learn to find things in texts: the curriculum, the training, the measures."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from nestling.core.error import UserError
from nestling.data import Batch, Corpus, prepare
from nestling.evals import Reader
from nestling.evals.answer import ask_texts
from nestling.evals.fit import words
from nestling.evals.questions import Questions, TextQuestions
from nestling.evals.requests import Ask, Memory
from nestling.models import create
from nestling.tasks import TASKS, UNSEEN, QuestionTask
from nestling.tasks.niah import Niah
from nestling.train import NotFinite, train, train_config
from nestling_lab.studies.study import Tell

SPARE = 2  # tokens that may be generated beyond the right answer


class Bare(Niah):
    """A value, then prose, then the question, without keys and instructions.

    ::

        is: 4711234. It rained. The sea was high. Nobody came. is: 4711234

    The value comes first.
    """

    haystack = "prose"

    def needle(self, key: str, value: str) -> str:
        """The end of a needle."""
        return f"is: {value}."

    def places(self, rng: Random, count: int) -> list[float]:
        """At the start of the text."""
        return [0.0] * count

    def prompt(self, context: str, asked: Sequence[str]) -> str:
        """The end of a question."""
        return f"{context} is:"


class BareUuids(Bare):
    """The same with UUIDs as values."""

    value_form = "uuids"


BARE: dict[str, type[Niah]] = {"niah-1": Bare, "niah-2": Bare, "niah-3": BareUuids}


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """A stage of the training."""

    steps: int
    rows: int  # texts per step
    length: int  # tokens of a text with its answer; of a bare one without value and answer
    bare: bool = False  # whether needles have no keys and instructions and come first
    tasks: tuple[str, ...] = ()  # empty: all of them, in turn

    def __post_init__(self) -> None:
        for name in ("steps", "rows", "length"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} of a lesson is {getattr(self, name)}; give at least 1")


class Mixed(Questions):
    """Batches from several sources in turn."""

    def __init__(self, sources: list[TextQuestions]):
        self.sources, self.batches = sources, 0

    def __next__(self) -> Batch:
        """The next batch, from the source whose turn it is."""
        rounds, turn = divmod(self.batches, len(self.sources))
        self.batches += 1
        source = self.sources[turn]
        source.batches = rounds
        return next(source)


class Course(Questions):
    """One source after another, each for its number of batches; the last one is endless."""

    def __init__(self, parts: Sequence[tuple[Questions, int]]):
        self.parts, self.batches = parts, 0

    def __next__(self) -> Batch:
        """The next batch; never raises StopIteration."""
        place = self.batches
        self.batches += 1
        for source, count in self.parts[:-1]:
            if place < count:
                source.batches = place
                return next(source)
            place -= count
        last, _ = self.parts[-1]
        last.batches = place
        return next(last)


def task_of(
    reader: Reader, name: str, length: int, *, room: int, prose: Corpus, bare: bool = False
) -> QuestionTask:
    """A task of texts of ``length`` tokens of the reader, ``room`` of them for the answer."""
    kind = BARE[name] if bare else TASKS.load(name)
    if bare:
        length += 2 * room  # the value occurs twice
    return kind(
        kind.Config(length=length, answer_room=room),
        material=prose,
        count=lambda text: len(reader.encode(text)),
    )


def course(
    reader: Reader,
    names: Sequence[str],
    lessons: Sequence[Lesson],
    task: Callable[[str, Lesson], QuestionTask],
    *,
    seed: int,
) -> Course:
    """All lessons, with the tasks of each in turn; ``names`` are the default tasks of a lesson."""
    parts = []
    for lesson in lessons:
        sources = [
            TextQuestions(task(name, lesson), batch_size=lesson.rows, seed=seed, **words(reader))
            for name in lesson.tasks or names
        ]
        parts.append((Mixed(sources), lesson.steps))
    return Course(parts)


def new_reader(config: Mapping[str, Any], *, seed: int, device: str) -> tuple[Reader, Corpus]:
    """An untrained model with a tokenizer of single digits, and the corpus of the tokenizer.

    ``config`` has corpus, vocab_size, model, preset and overrides.
    """
    prepared = prepare(config["corpus"], tokenizer="bpe-digits", vocab_size=config["vocab_size"])
    size = len(prepared.tokenizer)
    model = create(config["preset"], vocab_size=size, seed=seed, **config["overrides"])
    return Reader(model.to(device), prepared.tokenizer, name=config["model"]), prepared.corpus


def fitted(
    reader: Reader,
    loader: Course,
    config: Mapping[str, Any],
    measure: Callable[[], dict[str, Any]],
    tell: Tell,
) -> dict[str, Any]:
    """Train the model of a reader by ``config["train"]`` and measure it, unless it diverges."""
    own = train_config(config["train"])

    def after_step(run: Any) -> None:
        tell(run.totals.step, own.steps, run.totals.loss)

    begin = time.monotonic()
    try:
        found = train(reader.model, loader, own, quiet=True, after_step=after_step)
        found |= {"seconds_fit": time.monotonic() - begin, "diverged": False}
        reader.model.eval()
        found |= measure()
    except NotFinite as error:
        found = {"diverged": True, "reason": str(error)}
    return found | {"seconds": time.monotonic() - begin}


def task_figures(reader: Reader, task: QuestionTask, seed: int, count: int) -> dict[str, Any]:
    """The figures of one task at one length."""
    (example,) = task.examples(seed, 1)
    room = len(reader.encode(example.joint + example.answers[0])) + SPARE
    return ask_texts(reader, task, seed=seed, count=count, new_tokens=2 * room)


def answer_loss(reader: Reader, task: QuestionTask, seed: int, count: int) -> float:
    """The loss of right answers to unseen questions, nats per token; falls before scores rise."""
    asks = []
    for question in task.examples(UNSEEN + seed, count):
        context = (*reader.start, *reader.encode(question.prompt))
        asks.append(Ask(context, tuple(reader.encode(question.joint + question.answers[0]))))
    found = Memory(reader).score(asks)
    return -sum(score for score, _ in found) / sum(len(ask.continuation) for ask in asks)
