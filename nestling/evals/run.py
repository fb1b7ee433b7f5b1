"""A model on a task, or on a suite of them: one Result."""

import dataclasses
import time
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nestling.core.error import UserError, did_you_mean
from nestling.core.result import Result, provenance
from nestling.evals.answer import Tell, ask_positions, ask_texts, silent
from nestling.evals.fit import apart, by_training, fit, fresh
from nestling.evals.reader import SEGMENT, Reader
from nestling.evals.stages import ask_stages, by_reading
from nestling.models import preset_names
from nestling.models.config import fits, spelled
from nestling.tasks import TASKS, QuestionTask, StageTask, Task, TokenTask
from nestling.train import TrainConfig, train_config
from nestling.train.config import field_names


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How a model is measured on a task."""

    seed: int = 0  # of the examples, and of weights and batches where a model is fitted
    count: int = 100  # examples, or questions of each stage
    lengths: tuple[int, ...] = ()  # of the texts, one measurement each; none: the task's own
    options: Mapping[str, Any] = field(default_factory=dict)  # fields of the task's Config
    fit: TrainConfig | None = None  # train on the task first; None: measure as it is
    model: Mapping[str, Any] = field(default_factory=dict)  # overrides of a preset
    segment: int = SEGMENT  # tokens a call


def plan_of(
    tasks: Sequence[str],
    values: Mapping[str, Any],
    *,
    seed: int = 0,
    count: int = 100,
    lengths: tuple[int, ...] = (),
    fit: int = 0,
    segment: int = SEGMENT,
) -> Plan:
    """A plan whose ``values`` are options of the tasks, settings of the training, or of the preset.

    ``fit`` is the number of training steps; without it only the tasks have options. A preset checks
    its own, so what is neither is left to it.
    """
    options, model, trained = {}, {}, {}
    known = {f.name for name in tasks for f in dataclasses.fields(TASKS.load(name).Config)}
    for name, value in values.items():
        kind = options if name in known else trained if name in field_names() else model
        kind[name] = value
    if not fit and trained:
        raise UserError(f"{next(iter(trained))} is a setting of the training; add --fit STEPS")
    if not fit and model:
        name = next(iter(model))
        raise UserError(f"unknown option {name!r}: {did_you_mean(name, known)}")
    config = train_config({**trained, "steps": fit, "seed": seed}) if fit else None
    return Plan(
        seed=seed,
        count=count,
        lengths=lengths,
        options=options,
        fit=config,
        model=model,
        segment=segment,
    )


def make_task(name: str, options: Mapping[str, Any], reader: Reader | None = None) -> Task:
    """A task with options set; lengths of its texts are tokens of the reader's tokenizer.

    An unknown option, or one of the wrong kind, raises UserError.
    """
    kind = TASKS.load(name)
    hints = typing.get_type_hints(kind.Config)
    values = {key: tuple(v) if isinstance(v, list) else v for key, v in options.items()}
    for key, value in values.items():
        if key not in hints:
            raise UserError(f"unknown option {key!r} of {name}: {did_you_mean(key, hints)}")
        if not fits(value, hints[key]):
            raise UserError(f"{key} of {name} must be {spelled(hints[key])}, not {value!r}")
    config = kind.Config(**values)
    if issubclass(kind, TokenTask) or reader is None:
        return kind(config)
    return kind(config, count=lambda text: len(reader.encode(text)))


def measure(
    reader: Reader, task: Task, plan: Plan, *, own: bool = False, tell: Tell = silent
) -> dict[str, Any]:
    """The figures of a model on a task; ``own``: its vocabulary is the task's."""
    begin = time.monotonic()
    trained: dict[str, Any] = {}
    if plan.fit is not None and not isinstance(task, StageTask):
        assert isinstance(task, TokenTask | QuestionTask)
        trained = {"fit": fit(reader, task, plan.fit)}
    ready = time.monotonic()
    if isinstance(task, TokenTask):
        found = ask_positions(reader, task, seed=plan.seed, count=plan.count, own=own, tell=tell)
    elif isinstance(task, QuestionTask):
        found = ask_texts(reader, task, seed=plan.seed, count=plan.count, tell=tell)
    else:
        assert isinstance(task, StageTask)
        learn = (
            by_reading(reader, task) if plan.fit is None else by_training(reader, task, plan.fit)
        )
        found = ask_stages(task, learn, seed=plan.seed, count=plan.count, tell=tell)
    now = time.monotonic()
    return found | trained | {"seconds": now - ready, "seconds_fit": ready - begin}


def run_tasks(
    model: str,
    tasks: Sequence[str],
    plan: Plan,
    *,
    device: str = "cpu",
    say: Callable[[str], None] = lambda text: None,
) -> Result:
    """Measure a model on each of ``tasks``; with ``lengths`` at each of them.

    ``model`` is a folder, or the name of a preset, which is then trained on each task from fresh
    weights (``fit`` must say how). A fitted model of a folder is a copy; the folder stays as it is.
    """
    here = Path(model).exists()
    if not here and model not in preset_names():
        raise UserError(
            f"{model} is neither a folder with a model nor a preset: "
            f"{did_you_mean(model, preset_names())}"
        )
    if not here and plan.fit is None:
        raise UserError(f"{model} is an untrained preset; train it on the task first, with --fit")
    loaded = Reader.load(model, device, segment=plan.segment) if here else None
    metrics: dict[str, Any] = {}
    about: dict[str, Any] = {}
    for name in tasks:
        found: dict[str, Any] = {}
        by_length: dict[str, Any] = {}
        for length in plan.lengths or (None,):
            options = dict(plan.options) | ({} if length is None else {"length": length})
            reader, task, own = prepared(model, name, options, plan, loaded, device)
            about = about or reader.about()
            version = {"version": task.version, "kind": task.kind, "source": task.source}
            say(f"{name}{'' if length is None else f', length {length:,}'}")
            figures = measure(reader, task, plan, own=own)
            if length is None:
                found = figures | version
            else:
                by_length[str(length)] = figures
                found = {"by_length": by_length} | version
        metrics[name] = found
    config = dataclasses.asdict(plan) | {"tasks": list(tasks)} | about
    return Result(
        name="eval",
        config=config,
        metrics={"tasks": metrics},
        seed=plan.seed,
        provenance=provenance(device),
    )


def prepared(
    model: str,
    name: str,
    options: Mapping[str, Any],
    plan: Plan,
    loaded: Reader | None,
    device: str,
) -> tuple[Reader, Task, bool]:
    """The reader for a task, the task, and whether the vocabulary is the task's own."""
    if loaded is None:
        # a task of text counts bytes, which are the tokens of a fresh preset
        task = make_task(name, options)
        reader = fresh(model, task, seed=plan.seed, segment=plan.segment, options=plan.model)
        reader.model.to(device)
        return reader, task, isinstance(task, TokenTask)
    reader = apart(loaded) if plan.fit is not None else loaded
    task = make_task(name, options, reader)
    if plan.fit is not None and isinstance(task, TokenTask):
        raise UserError(f"{name} has tokens of its own: fit a preset to it, such as hope-tiny")
    return reader, task, False
