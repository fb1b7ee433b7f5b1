"""Trains one of our models on a task before evaluating it."""

import copy
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from nestling.core.error import UserError
from nestling.data import byte_tokenizer
from nestling.evals.questions import Lessons, Questions, Rows, TextQuestions
from nestling.evals.reader import Reader
from nestling.evals.stages import Learned
from nestling.models import create
from nestling.tasks import QuestionTask, Stage, StageTask, Task, TokenTask
from nestling.train import TrainConfig, train


def fresh(
    preset: str, task: Task, *, seed: int, segment: int, options: Mapping[str, Any]
) -> Reader:
    """An untrained preset for a task, with the task's tokens, or bytes for a text task."""
    tokenizer = byte_tokenizer()
    size = task.vocab_size if isinstance(task, TokenTask) else len(tokenizer)
    model = create(preset, vocab_size=size, seed=seed, **options)
    return Reader(model, tokenizer, name=preset, segment=segment)


def shaped(config: TrainConfig, length: int) -> TrainConfig:
    """Training settings for rows of ``length`` tokens that each start with an empty memory."""
    return dataclasses.replace(config, sequence_length=length, carry=False, save_every=0)


def fit(
    reader: Reader, task: TokenTask | QuestionTask, config: TrainConfig, *, quiet: bool = True
) -> dict[str, Any]:
    """Train the reader's model in place on examples of training seeds; return the metrics.

    A task with ``train_examples`` is trained on that many rows; for any other, every batch is new.
    Only the answers have labels. ``sequence_length`` is set to the length of the first batch.
    """
    check_ours(reader)
    if isinstance(task, TokenTask):
        loader = rows_of(task, config)
    else:
        loader = TextQuestions(
            task, batch_size=config.batch_size, seed=config.seed, **words(reader)
        )
    length = next(loader).input_ids.shape[1]
    loader.batches = 0
    return train(reader.model, loader, shaped(config, length), quiet=quiet)


def check_ours(reader: Reader) -> None:
    """Raise UserError for a model that is not ours, which cannot be trained here."""
    if not reader.ours:
        raise UserError(f"{reader.name} is not a nestling model; fit another, or leave out --fit")


def rows_of(task: TokenTask, config: TrainConfig) -> Questions:
    """The training batches of a token task, from a fixed set of rows if it has one."""
    rows = getattr(task.config, "train_examples", None)
    shape = {"batch_size": config.batch_size, "seed": config.seed}
    return Rows(task, rows=rows, **shape) if rows else Questions(task, **shape)


def words(reader: Reader) -> dict[str, Any]:
    """The options for turning a reader's texts into rows."""
    end = reader.tokenizer.eos_token_id
    return {"encode": reader.encode, "start": reader.start, "end": end}


def by_training(
    reader: Reader, task: StageTask, config: TrainConfig
) -> Callable[[int, Stage], Learned]:
    """Learn by gradient, in place: ``config.steps`` steps on each stage's lessons, no replay."""
    check_ours(reader)

    def learn(index: int, stage: Stage) -> Learned:
        loader = Lessons(
            task,
            stage.learn,
            batch_size=config.batch_size,
            seed=config.seed + index,
            **words(reader),
        )
        length = next(loader).input_ids.shape[1]
        loader.batches = 0
        train(reader.model, loader, shaped(config, length), quiet=True)
        return Learned(reader)

    return learn


def apart(reader: Reader) -> Reader:
    """A reader with a copy of the model, to train without changing the original."""
    model = copy.deepcopy(reader.model)
    return Reader(model, reader.tokenizer, name=reader.name, segment=reader.segment)
