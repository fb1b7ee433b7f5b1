"""Evaluates a model on a task or a suite, and returns one Result."""

import dataclasses
import time
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nestling.core.error import UserError, did_you_mean
from nestling.core.result import Result, provenance
from nestling.evals.answer import ask_positions, ask_texts
from nestling.evals.fit import apart, by_training, check_ours, fit, fresh, rows_of
from nestling.evals.progress import Tell, silent
from nestling.evals.protocol import Say, follow, protocol_of
from nestling.evals.reader import SEGMENT, Reader
from nestling.evals.readout import ask_readout, fit_readout
from nestling.evals.stages import ask_stages, by_reading
from nestling.models import preset_names
from nestling.models.config import fits, spell_type
from nestling.models.foreign import lies_outside
from nestling.models.pretrained import WHEELS
from nestling.tasks import TASKS, QuestionTask, StageTask, Task, TokenTask
from nestling.train import TrainConfig, train_config
from nestling.train.config import field_names


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The plan of an evaluation."""

    seed: int = 0  # of the examples, and of weights and batches if a model is fitted
    count: int = 100  # examples, or questions per stage
    lengths: tuple[int, ...] = ()  # of the texts, one measurement each; empty: the task's own
    sweep: bool = False  # measure each of the task's difficulties
    options: Mapping[str, Any] = field(default_factory=dict)  # fields of the task's Config
    fit: TrainConfig | None = None  # train on the task first; None: no training
    # train by the task's published protocol, with these overrides; None: no
    protocol: Mapping[str, Any] | None = None
    rows: int | None = None  # test rows after the published training; None: as published
    model: Mapping[str, Any] = field(default_factory=dict)  # overrides of a preset
    segment: int = SEGMENT  # tokens per call


def plan_of(
    tasks: Sequence[str],
    values: Mapping[str, Any],
    *,
    seed: int = 0,
    count: int | None = None,
    lengths: tuple[int, ...] = (),
    sweep: bool = False,
    fit: int = 0,
    protocol: bool = False,
    segment: int = SEGMENT,
) -> Plan:
    """A plan from ``values``: options of the tasks, training settings, or options of the preset.

    ``fit`` is the number of training steps; with ``protocol`` each task is trained by its published
    protocol, whose length is set by ``epochs``. Without either, only the tasks have options. Values
    that are neither task options nor training settings are left to the preset to check. Raises
    UserError for values that contradict each other.
    """
    if protocol and fit:
        raise UserError("fit and protocol are both given; choose one way to train")
    if sweep and lengths:
        raise UserError("lengths and the task's own difficulties are both given; choose one sweep")
    options, model, trained = {}, {}, {}
    known = {f.name for name in tasks for f in dataclasses.fields(TASKS.load(name).Config)}
    for name, value in values.items():
        setting = name in field_names() or protocol and name == "epochs"
        kind = options if name in known else trained if setting else model
        kind[name] = value
    if protocol and "steps" in trained:
        raise UserError("the published training is counted in epochs, not steps; set epochs")
    if not (fit or protocol) and trained:
        raise UserError(f"{next(iter(trained))} is a training setting; add --fit STEPS")
    if not (fit or protocol) and model:
        name = next(iter(model))
        raise UserError(f"unknown option {name!r}: {did_you_mean(name, known)}")
    config = train_config({**trained, "steps": fit, "seed": seed}) if fit else None
    return Plan(
        seed=seed,
        count=100 if count is None else count,
        lengths=lengths,
        sweep=sweep,
        options=options,
        fit=config,
        protocol=trained if protocol else None,
        rows=count,
        model=model,
        segment=segment,
    )


def make_task(name: str, options: Mapping[str, Any], reader: Reader | None = None) -> Task:
    """A task with options set; lengths of texts are counted in tokens of the reader's tokenizer.

    Raises UserError for an unknown option or a value of the wrong type.
    """
    kind = TASKS.load(name)
    hints = typing.get_type_hints(kind.Config)
    values = {key: tuple(v) if isinstance(v, list) else v for key, v in options.items()}
    for key, value in values.items():
        if key not in hints:
            raise UserError(f"unknown option {key!r} of {name}: {did_you_mean(key, hints)}")
        if not fits(value, hints[key]):
            raise UserError(f"{key} of {name} must be {spell_type(hints[key])}, not {value!r}")
    config = kind.Config(**values)
    if issubclass(kind, TokenTask) or reader is None:
        return kind(config)
    return kind(config, count=lambda text: len(reader.encode(text)))


def measure(
    reader: Reader,
    task: Task,
    plan: Plan,
    *,
    own: bool = False,
    tell: Tell = silent,
    quiet: bool = True,
) -> dict[str, Any]:
    """The figures of a model on a task; ``own``: the model has the task's vocabulary. ``tell`` is
    called with the number of answers so far. Unless ``quiet``, training progress is shown.
    """
    begin = time.monotonic()
    if isinstance(task, TokenTask) and task.readout == "last":
        return decode(reader, task, plan)
    trained: dict[str, Any] = {}
    if plan.fit is not None and not isinstance(task, StageTask):
        assert isinstance(task, TokenTask | QuestionTask)
        trained = {"fit": fit(reader, task, plan.fit, quiet=quiet)}
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


def published(
    model: str, task: Task, plan: Plan, label: str, device: str, say: Say, quiet: bool
) -> dict[str, dict[str, Any]]:
    """Train a preset by the task's published protocol and return the figures by variant."""
    protocol_of(task, {})  # refuse a task without one early
    assert plan.protocol is not None and isinstance(task, TokenTask)

    def make() -> Reader:
        reader = fresh(model, task, seed=plan.seed, segment=plan.segment, options=plan.model)
        reader.model.to(device)
        return reader

    begin = time.monotonic()
    how = {"settings": plan.protocol, "seed": plan.seed, "rows": plan.rows}
    found = follow(make, task, say=say, quiet=quiet, **how)
    seconds = {"seconds": time.monotonic() - begin}
    return {
        ", ".join(filter(None, (label, name))): figures | seconds for name, figures in found.items()
    }


def prefix(say: Say, name: str) -> Say:
    """A ``say`` that prefixes messages with the name of a measurement."""
    return lambda text: say(f"{name}: {text}")


def decode(reader: Reader, task: TokenTask, plan: Plan) -> dict[str, Any]:
    """``measure`` for a task whose answers are decoded from the last position."""
    if plan.fit is None:
        return {"score": None, "note": "decoded from the last position: fit a preset to it (--fit)"}
    check_ours(reader)
    begin = time.monotonic()
    readout, trained = fit_readout(reader.model, task, rows_of(task, plan.fit), plan.fit)
    ready = time.monotonic()
    found = ask_readout(reader.model, readout, task, seed=plan.seed, count=plan.count)
    seconds = {"seconds": time.monotonic() - ready, "seconds_fit": ready - begin}
    return found | {"fit": trained} | seconds


def run_tasks(
    model: str,
    tasks: Sequence[str],
    plan: Plan,
    *,
    device: str = "cpu",
    say: Callable[[str], None] = lambda text: None,
    tell: Tell = silent,
    quiet: bool = True,
) -> Result:
    """Measure a model on each of ``tasks``, at each of the plan's lengths, or each difficulty.

    ``model`` is a folder (or anything else that ``load_causal_lm`` reads), or the name of a preset,
    which is then trained from scratch on each task, as given by the plan. If one of several tasks
    does not suit the model, it has a note instead of a score. A model from a folder is copied
    before it is fitted. ``say`` is called with each measurement, ``tell`` with the number of
    answers so far. Unless ``quiet``, training progress is shown.
    """
    here = Path(model).exists() or lies_outside(model)
    if not here and model not in preset_names():
        raise UserError(
            f"{model} is neither a folder with a model nor a preset: "
            f"{did_you_mean(model, [*preset_names(), *WHEELS])}"
        )
    if not here and plan.fit is None and plan.protocol is None:
        raise UserError(
            f"{model} is an untrained preset; train it on the task first with --fit or --protocol"
        )
    if here and plan.protocol is not None:
        raise UserError(f"--protocol trains from scratch; give a preset instead of {model}")
    loaded = Reader.load(model, device, segment=plan.segment) if here else None
    metrics: dict[str, Any] = {}
    about: dict[str, Any] = {}

    def of_task(name: str) -> dict[str, Any]:
        nonlocal about
        parts: dict[str, dict[str, Any]] = {}
        for label, options in variants(name, plan).items():
            reader, task, own = prepare_task(model, name, options, plan, loaded, device)
            about = about or reader.about()
            version = {"version": task.version, "kind": task.kind, "source": task.source}
            full = f"{name}{label and ', '}{label}"
            if plan.protocol is not None:
                parts |= published(model, task, plan, label, device, prefix(say, full), quiet)
                continue
            say(full)
            parts[label] = measure(reader, task, plan, own=own, tell=tell, quiet=quiet)
        return together(parts) | version

    for name in tasks:
        try:
            metrics[name] = of_task(name)
        except UserError as error:
            if len(tasks) == 1:
                raise
            say(f"{name}: {error}")
            metrics[name] = {"score": None, "note": str(error)}
    config = dataclasses.asdict(plan) | {"tasks": list(tasks)} | about
    return Result(
        name="eval",
        config=config,
        metrics={"tasks": metrics},
        seed=plan.seed,
        provenance=provenance(device),
    )


def variants(name: str, plan: Plan) -> dict[str, dict[str, Any]]:
    """The options of each measurement of a task, by the name of the variant ("": the plain one)."""
    plain = dict(plan.options)
    if plan.lengths:
        return {f"length {n}": plain | {"length": n} for n in plan.lengths}
    if not plan.sweep:
        return {"": plain}
    kind = TASKS.load(name)
    found = {"": plain}
    # variants measured after the same published training are not separate difficulties
    follows = plan.protocol is not None and kind.protocol is not None
    together = set(kind.protocol.measured) if follows else set()
    for config in kind.difficulties()[1:]:
        own, usual = dataclasses.asdict(config), dataclasses.asdict(kind.Config())
        changed = {field: value for field, value in own.items() if value != usual[field]}
        if together & set(changed):
            continue
        found[", ".join(f"{field} {value}" for field, value in changed.items())] = plain | changed
    return found


def together(parts: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """A single measurement unchanged; several by name, with the mean of their scores."""
    if set(parts) == {""}:
        return parts[""]
    scores = [found["score"] for found in parts.values() if found["score"] is not None]
    mean = sum(scores) / len(scores) if scores else None
    return {"mean_score": mean, "parts": dict(parts)}


def prepare_task(
    model: str,
    name: str,
    options: Mapping[str, Any],
    plan: Plan,
    loaded: Reader | None,
    device: str,
) -> tuple[Reader, Task, bool]:
    """The reader for a task, the task, and whether the vocabulary is the task's own."""
    if loaded is None:
        # a text task counts bytes, which are the tokens of a new preset
        task = make_task(name, options)
        reader = fresh(model, task, seed=plan.seed, segment=plan.segment, options=plan.model)
        reader.model.to(device)
        return reader, task, isinstance(task, TokenTask)
    reader = apart(loaded) if plan.fit is not None else loaded
    task = make_task(name, options, reader)
    if plan.fit is not None and isinstance(task, TokenTask):
        raise UserError(f"{name} has its own tokens; fit a preset to it, such as hope-tiny")
    return reader, task, False
