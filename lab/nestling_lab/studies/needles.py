"""How a model learns to find needles: first bare ones, then texts as they will be asked about."""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from nestling.core.error import UserError
from nestling.data import Batch, Corpus
from nestling.evals import Reader
from nestling.evals.answer import ask_texts
from nestling.evals.fit import words
from nestling.evals.questions import Questions, TextQuestions
from nestling.evals.requests import Ask, Memory
from nestling.tasks import TASKS, UNSEEN, QuestionTask
from nestling.tasks.niah import Niah

SPARE = 2  # tokens that may be generated beyond those of the right answer


class Bare(Niah):
    """A value and prose after it, then the question: neither keys nor instructions.

    ::

        is: 4711234. It rained. The sea was high. Nobody came. is: 4711234

    The value stands at the beginning.
    """

    haystack = "prose"

    def needle(self, key: str, value: str) -> str:
        """The end of a needle."""
        return f"is: {value}."

    def places(self, rng: Random, count: int) -> list[float]:
        """At the beginning."""
        return [0.0] * count

    def prompt(self, context: str, asked: Sequence[str]) -> str:
        """The end of a question."""
        return f"{context} is:"


class BareUuids(Bare):
    """The same with a UUID for the value."""

    value_form = "uuids"


BARE: dict[str, type[Niah]] = {"niah-1": Bare, "niah-2": Bare, "niah-3": BareUuids}


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """What is trained on for a while."""

    steps: int
    rows: int  # texts a step
    length: int  # tokens of a text, its answer included; of a bare one without value and answer
    bare: bool = False  # needles without keys and instructions, at the beginning
    tasks: tuple[str, ...] = ()  # none named: all of them, in turn

    def __post_init__(self) -> None:
        for name in ("steps", "rows", "length"):
            if getattr(self, name) < 1:
                raise UserError(f"a lesson needs {name} >= 1, not {getattr(self, name)}")


class Mixed(Questions):
    """Batches of several sources in turn."""

    def __init__(self, sources: list[TextQuestions]):
        self.sources, self.batches = sources, 0

    def __next__(self) -> Batch:
        """The next batch of the source whose turn it is; there always is one."""
        rounds, turn = divmod(self.batches, len(self.sources))
        self.batches += 1
        source = self.sources[turn]
        source.batches = rounds
        return next(source)


class Course(Questions):
    """One source after the other, each for its number of batches; the last goes on."""

    def __init__(self, parts: Sequence[tuple[Questions, int]]):
        self.parts, self.batches = parts, 0

    def __next__(self) -> Batch:
        """The next batch; there always is one."""
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
        length += 2 * room  # the value stands there twice
    return kind(
        kind.Config(length=length, answer_room=room),
        material=prose,
        count=lambda text: len(reader.encode(text)),
    )


def course(
    reader: Reader,
    names: Sequence[str],
    lessons: Sequence[Lesson],
    *,
    room: dict[str, int],
    prose: Corpus,
    seed: int,
) -> Course:
    """All lessons, the tasks of each in turn; ``names`` are those of a lesson that names none."""
    parts = []
    for lesson in lessons:
        sources = [
            TextQuestions(
                task_of(
                    reader, name, lesson.length, room=room[name], prose=prose, bare=lesson.bare
                ),
                batch_size=lesson.rows,
                seed=seed,
                **words(reader),
            )
            for name in lesson.tasks or names
        ]
        parts.append((Mixed(sources), lesson.steps))
    return Course(parts)


def task_figures(reader: Reader, task: QuestionTask, seed: int, count: int) -> dict[str, Any]:
    """The figures of one task at one length."""
    (example,) = task.examples(seed, 1)
    room = len(reader.encode(example.joint + example.answers[0])) + SPARE
    return ask_texts(reader, task, seed=seed, count=count, new_tokens=2 * room)


def answer_loss(reader: Reader, task: QuestionTask, seed: int, count: int) -> float:
    """Nats for each token of the right answers to unseen questions: falls before a score rises."""
    asks = []
    for question in task.examples(UNSEEN + seed, count):
        context = (*reader.start, *reader.encode(question.prompt))
        asks.append(Ask(context, tuple(reader.encode(question.joint + question.answers[0]))))
    found = Memory(reader).score(asks)
    return -sum(score for score, _ in found) / sum(len(ask.continuation) for ask in asks)
