"""Learning stage after stage, by reading or by training, and what is forgotten on the way."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from nestling.core.statistics import interval
from nestling.evals.answer import Tell, answer_to, silent
from nestling.evals.reader import Reader
from nestling.evals.requests import Memory
from nestling.tasks import Question, Stage, StageTask

BETWEEN = "\n"  # between two lessons, and before a question


class Learned:
    """What a reader has learned so far, to be asked from: its memory, or the end of the text."""

    def __init__(self, reader: Reader):
        self.reader = reader
        self.ids: list[int] = list(reader.start)
        self.cache: Any = None

    def read(self, lessons: Sequence[Question]) -> None:
        """Read lessons after all that was read before."""
        reader = self.reader
        fresh = [token for x in lessons for token in reader.encode(x.told + BETWEEN)]
        if reader.horizon is None:
            begin = self.ids if self.cache is None else []
            _, self.cache = reader.read(torch.tensor([[*begin, *fresh]]), self.cache)
        else:
            self.ids += fresh

    def ask(self, task: StageTask, questions: Sequence[Question]) -> list[float]:
        """The score of each question, asked after everything learned and leaving no trace.

        A model with a horizon sees as much of the end of the lessons as leaves room.
        """
        reader, found = self.reader, []
        for question in questions:
            prompt = reader.encode(question.prompt)
            if self.cache is not None:
                memory = Memory(reader, before=self.cache)
                found.append(answer_to(memory, task, prompt or reader.start, question))
            else:
                found.append(answer_to(Memory(reader), task, [*self.ids, *prompt], question))
        return task.scores(found, questions)


def by_reading(reader: Reader, task: StageTask) -> Callable[[int, Stage], Learned]:
    """Learning as one long text: the weights stay, the memory goes on."""
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
    """Teach the stages in their order; after each ask about all of them so far.

    ``learn`` takes a stage's place and the stage and gives what can then be asked. ``count`` takes
    so many questions of each stage. ``table[t][i]`` is the score on stage i after stage t. With T
    stages, ``score = mean_i table[T-1][i]`` (the last average) and ``forgotten = mean_{i<T-1}
    (max_t table[t][i] - table[T-1][i])``; ``learned = mean_i table[i][i]``, what was known right
    after its stage.

    Source: last and forgetting as in Chaudhry et al., arXiv 1801.10112; the protocol (no replay, no
    stage told) Momeni et al., arXiv 2412.15563.
    """
    stages = task.stages(seed)
    table: list[list[float]] = []
    scores: list[float] = []
    for t, stage in enumerate(stages):
        learned = learn(t, stage)
        row, scores = [], []
        for questions in task.asked(stages, t):
            found = learned.ask(task, questions[:count])
            row.append(sum(found) / len(found))
            scores += found
        table.append(row)
        tell(t + 1, len(stages))
    return figures_of(table, scores) | {
        "stages": [stage.name for stage in stages],
        "chance": task.chance,
    }


def figures_of(table: Sequence[Sequence[float]], scores: Sequence[float]) -> dict[str, Any]:
    """Last average, what was learned and what was forgotten, of a table of scores.

    >>> found = figures_of([[1.0], [0.5, 0.75]], [0.5, 0.75])
    >>> found["score"], found["learned"], found["forgotten"]
    (0.625, 0.875, 0.5)
    """
    last = table[-1]
    lost = [max(row[i] for row in table[i:]) - last[i] for i in range(len(last) - 1)]
    questions = interval(scores)
    return {
        "score": sum(last) / len(last),
        "low_95": None if questions.count < 2 else questions.low,
        "high_95": None if questions.count < 2 else questions.high,
        "count": questions.count,
        "learned": sum(row[i] for i, row in enumerate(table)) / len(table),
        "forgotten": sum(lost) / len(lost) if lost else 0.0,
        "table": [list(row) for row in table],
    }
