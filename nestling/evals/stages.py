"""Learns stage by stage, by reading or by training, and measures forgetting."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any

import torch

from nestling.evals.answer import answer_to, room_of
from nestling.evals.figures import figures, pooled
from nestling.evals.progress import Tell, silent
from nestling.evals.reader import Reader
from nestling.evals.requests import Memory
from nestling.tasks import Answer, Question, Stage, StageTask

BETWEEN = "\n"  # between two lessons, and before a question


class Learned:
    """A reader's memory of the lessons so far, which answers questions.

    Lessons are read once, when first asked about; questions are answered from forks of the memory.
    """

    def __init__(self, reader: Reader):
        self.reader = reader
        self.ids: list[int] = list(reader.start)  # all lessons
        self.seen: list[int] = []  # the last part of them, which the memory has read
        self.cache: Any = None

    def read(self, lessons: Sequence[Question]) -> None:
        """Learn the lessons of the next stage."""
        self.ids += [token for x in lessons for token in self.reader.encode(x.as_lesson + BETWEEN)]

    def ask(self, task: StageTask, questions: Sequence[Question]) -> Iterator[Answer]:
        """Yield the answer to each question after all lessons; questions leave no trace.

        A model with a horizon reads the end of the lessons, as much as leaves room for the longest
        question with its answer, so that all questions follow the same lessons.
        """
        reader = self.reader
        memory = self._memory(max(room_of(reader, task, question) for question in questions))
        for question in questions:
            prompt = reader.encode(question.prompt) or reader.start
            yield answer_to(memory, task, prompt, question)

    def _memory(self, room: int) -> Memory:
        """The memory of the last lessons, as many tokens as leave room for ``room`` more."""
        reader, ids = self.reader, list(self.ids)
        if reader.horizon is not None:
            ids = ids[max(0, len(ids) + room - reader.horizon) :]
        if ids[: len(self.seen)] != self.seen:
            self.seen, self.cache = [], None
        fresh = ids[len(self.seen) :]
        if fresh:
            _, self.cache = reader.read(torch.tensor([fresh]), self.cache)
        self.seen = ids
        return Memory(reader, before=self.cache, seen=ids)


def by_reading(reader: Reader, task: StageTask) -> Callable[[int, Stage], Learned]:
    """Learn by reading the lessons as one long text: the memory changes, the weights do not."""
    learned = Learned(reader)

    def learn(index: int, stage: Stage) -> Learned:
        learned.read(stage.learn)
        return learned

    return learn


def ask_stages(
    task: StageTask,
    learn: Callable[[int, Stage], Learned],
    *,
    seed: int = 0,
    count: int | None = None,
    tell: Tell = silent,
) -> dict[str, Any]:
    """Teach the stages in order; after each, ask about all of them so far.

    ``learn`` takes the index of a stage and the stage, and returns what answers questions then.
    ``count`` is the number of questions per stage. ``table[t][i]`` is the score on stage i after
    stage t. With T stages, ``score = mean_i table[T-1][i]`` (the final average), ``forgotten =
    mean_{i<T-1} (max_t table[t][i] - table[T-1][i])`` and ``learned = mean_i table[i][i]``, the
    score right after a stage. ``tokens`` counts all lessons read, ``tokens_seen`` the last ones
    that the model had room for at the final questions.

    Source: final average and forgetting as in Chaudhry et al., arXiv 1801.10112; the protocol (no
    replay, no task id) Momeni et al., arXiv 2412.15563.
    """
    stages = task.stages(seed)
    rounds = [
        [part[:count] for part in task.questions_up_to(stages, t)] for t in range(len(stages))
    ]
    total = sum(len(part) for parts in rounds for part in parts)
    done = 0
    table: list[list[float]] = []
    answers: list[Answer] = []
    asked: list[Question] = []
    for t, stage in enumerate(stages):
        learned = learn(t, stage)
        answers, asked = [], [question for part in rounds[t] for question in part]
        for answer in learned.ask(task, asked):
            answers.append(answer)
            done += 1
            tell(done, total)
        table.append(by_stage(task, answers, rounds[t]))
    sizes = [len(part) for part in rounds[-1]]
    return figures_of(table, last_figures(task, answers, asked, sizes)) | {
        "stages": [stage.name for stage in stages],
        "tokens": len(learned.ids),
        "tokens_seen": len(learned.seen),
    }


def by_stage(
    task: StageTask, answers: Sequence[Answer], parts: Sequence[Sequence[Question]]
) -> list[float]:
    """The score of each stage, from the answers to all questions in order."""
    found = iter(answers)
    return [task.score(list(itertools.islice(found, len(part))), part) for part in parts]


def last_figures(
    task: StageTask, answers: Sequence[Answer], asked: Sequence[Question], sizes: Sequence[int]
) -> dict[str, Any]:
    """The figures of the answers after the last stage, ``sizes`` of them per stage."""
    found = figures(task.scores(answers, asked), task.chance)
    if not task.pooled:
        return found
    parts = list(itertools.pairwise([0, *itertools.accumulate(sizes)]))

    def score(places: Sequence[int]) -> float:
        of_stages = [places[begin:end] for begin, end in parts]
        return fmean(
            task.score([answers[i] for i in own], [asked[i] for i in own]) for own in of_stages
        )

    return found | pooled(score, sizes) | task.beside(answers, asked)


def figures_of(table: Sequence[Sequence[float]], last: Mapping[str, Any]) -> dict[str, Any]:
    """The final average, what was learned and what was forgotten, from a table of scores.

    ``last`` are the figures of the individual answers after the last stage, with their interval.

    >>> found = figures_of([[1.0], [0.5, 0.75]], figures([0.5, 0.75], 0.1))
    >>> found["score"], found["learned"], found["forgotten"]
    (0.625, 0.875, 0.5)
    """
    row = table[-1]
    lost = [max(above[i] for above in table[i:]) - row[i] for i in range(len(row) - 1)]
    return {
        **last,
        "score": fmean(row),
        "learned": fmean(above[i] for i, above in enumerate(table)),
        "forgotten": fmean(lost) if lost else 0.0,
        "table": [list(above) for above in table],
    }
