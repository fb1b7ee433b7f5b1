"""Tasks as endless sources of batches, for the training loop."""

import random
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from nestling.data import Batch
from nestling.tasks import IGNORED, UNSEEN, Examples, Question, QuestionTask, TextTask, TokenTask

APART = 1_000_003  # distance between the seeds of two runs; a run uses one seed per batch
PAD = 0  # token at masked positions
Encode = Callable[[str], list[int]]


def as_batch(examples: Examples) -> Batch:
    """A batch in which every row is a document, without padding."""
    reset = torch.zeros_like(examples.input_ids, dtype=torch.bool)
    reset[:, 0] = True
    return Batch(examples.input_ids, examples.labels, reset, torch.ones_like(reset))


class Questions:
    """New examples in every batch; the position is the number of batches drawn."""

    def __init__(self, task: TokenTask, *, batch_size: int, seed: int):
        self.task, self.batch_size, self.seed = task, batch_size, seed
        self.batches = 0

    def __iter__(self) -> "Questions":
        """The loader itself, which continues from its position."""
        return self

    def __next__(self) -> Batch:
        """The next batch; never raises StopIteration."""
        self.batches += 1
        return as_batch(self.task.examples(self.seed * APART + self.batches, self.batch_size))

    def state_dict(self) -> dict[str, Any]:
        """The exact position."""
        return {"batches": self.batches}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a saved position."""
        self.batches = state["batches"]


class Rows(Questions):
    """A fixed number of rows, repeated in a new random order each epoch."""

    def __init__(self, task: TokenTask, *, rows: int, batch_size: int, seed: int):
        super().__init__(task, batch_size=batch_size, seed=seed)
        self.rows = task.examples(seed * APART, rows)

    def order(self, number: int) -> list[int]:
        """The order of the rows in an epoch."""
        return order_of(self.seed, number, len(self.rows.input_ids))

    def __next__(self) -> Batch:
        """The next batch; never raises StopIteration."""
        size, count = self.batch_size, len(self.rows.input_ids)
        chosen = []
        for place in range(self.batches * size, (self.batches + 1) * size):
            chosen.append(self.order(place // count)[place % count])
        self.batches += 1
        return as_batch(Examples(self.rows.input_ids[chosen], self.rows.labels[chosen]))


@lru_cache(maxsize=4)
def order_of(seed: int, round_: int, count: int) -> list[int]:
    """The order of ``count`` items in an epoch."""
    order = list(range(count))
    random.Random(f"{seed}:{round_}").shuffle(order)
    return order


def right(task: TextTask, question: Question) -> str:
    """The right answer to a question as text; all answers if all are asked for."""
    return str(task.oracle([question])[0]) if task.kind == "generate" else question.answers[0]


def as_rows(
    task: TextTask, questions: Sequence[Question], *, encode: Encode, start: list[int], end: int
) -> Batch:
    """Questions with their answers as rows; the labels are the answer and the end token.

    In a perplexity task the whole text is the answer. Rows are padded on the right.
    """
    rows = []
    for question in questions:
        prompt = [*start, *encode(question.prompt)]
        answer = [*encode(question.joint + right(task, question)), end]
        rows.append((len(prompt), [*prompt, *answer]))
    width = max(len(ids) for _, ids in rows) - 1
    ids = torch.full((len(rows), width), PAD)
    labels = torch.full((len(rows), width), IGNORED)
    mask = torch.zeros(len(rows), width, dtype=torch.bool)
    for row, (begin, tokens) in enumerate(rows):
        taken = torch.tensor(tokens)
        ids[row, : len(taken) - 1] = taken[:-1]
        labels[row, begin - 1 : len(taken) - 1] = taken[begin:]
        mask[row, : len(taken) - 1] = True
    reset = torch.zeros_like(mask)
    reset[:, 0] = True
    return Batch(ids, labels, reset, mask)


class TextQuestions(Questions):
    """New questions with their answers in every batch, from training seeds."""

    def __init__(
        self,
        task: QuestionTask,
        *,
        encode: Encode,
        start: list[int],
        end: int,
        batch_size: int,
        seed: int,
    ):
        self.texts, self.encode, self.start, self.end = task, encode, start, end
        self.batch_size, self.seed, self.batches = batch_size, seed, 0

    def __next__(self) -> Batch:
        """The next batch; never raises StopIteration."""
        self.batches += 1
        found = self.texts.examples(self.seed * APART + self.batches, self.batch_size)
        return as_rows(self.texts, found, encode=self.encode, start=self.start, end=self.end)


class Lessons(Questions):
    """The lessons of one stage of a task, repeated in a new random order each epoch."""

    def __init__(
        self,
        task: TextTask,
        lessons: Sequence[Question],
        *,
        encode: Encode,
        start: list[int],
        end: int,
        batch_size: int,
        seed: int,
    ):
        self.texts, self.lessons = task, lessons
        self.encode, self.start, self.end = encode, start, end
        self.batch_size, self.seed, self.batches = batch_size, seed, 0

    def __next__(self) -> Batch:
        """The next batch; never raises StopIteration."""
        size, count = self.batch_size, len(self.lessons)
        places = range(self.batches * size, (self.batches + 1) * size)
        self.batches += 1
        chosen = []
        for place in places:
            order = order_of(self.seed, place // count, count)
            chosen.append(self.lessons[order[place % count]])
        return as_rows(self.texts, chosen, encode=self.encode, start=self.start, end=self.end)


def unseen_examples(task: TokenTask, *, seed: int, count: int) -> Examples:
    """Examples from seeds that training never uses."""
    return task.examples(UNSEEN + seed, count)


@torch.no_grad()
def answers(model: Any, input_ids: Tensor, batch_size: int = 64) -> Tensor:
    """The most likely token after each position, [N, T]; every row has an empty memory."""
    device = next(model.parameters()).device
    parts = [
        model(input_ids=part.to(device), use_cache=False).logits.argmax(-1).cpu()
        for part in input_ids.split(batch_size)
    ]
    return torch.cat(parts)
