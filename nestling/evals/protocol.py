"""Trains a preset on a task by the published protocol of the task, and evaluates it."""

import dataclasses
import itertools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from nestling.core.error import UserError
from nestling.evals.figures import judged_rows
from nestling.evals.questions import Rows, answers, as_batch, unseen_examples
from nestling.evals.reader import Reader
from nestling.evals.readout import answers_of, fit_readout
from nestling.tasks import Examples, Protocol, Task, TokenTask
from nestling.train import NotFinite, train, train_config

Say = Callable[[str], None]


class Passes(Rows):
    """The rows of a task, epoch by epoch, each in a new order; the last batch may be smaller."""

    @property
    def steps(self) -> int:
        """The number of batches in an epoch."""
        return -(-len(self.rows.input_ids) // self.batch_size)

    def __next__(self):
        """The next batch; never raises StopIteration."""
        number, step = divmod(self.batches, self.steps)
        self.batches += 1
        chosen = self.order(number)[step * self.batch_size : (step + 1) * self.batch_size]
        return as_batch(Examples(self.rows.input_ids[chosen], self.rows.labels[chosen]))


class Watch:
    """Evaluates a model after every epoch, and keeps the answers of the last or best one."""

    def __init__(self, task: TokenTask, protocol: Protocol, *, rows: int, seed: int, steps: int):
        self.protocol, self.steps = protocol, steps
        self.tasks = measured(task, protocol)
        self.examples = {
            name: unseen_examples(one, seed=seed, count=rows) for name, one in self.tasks.items()
        }
        self.passes, self.best = 0, 0  # epochs done, and the one kept
        self.score = -1.0
        self.kept: dict[str, Tensor] = {}

    def __call__(self, step: int, answer: Callable[[Tensor], Tensor]) -> bool:
        """Evaluate at the end of an epoch; return whether training can stop."""
        if step % self.steps:
            return False
        self.passes = step // self.steps
        found = {name: answer(one.input_ids) for name, one in self.examples.items()}
        scores = [
            task.score(found[name], self.examples[name].labels) for name, task in self.tasks.items()
        ]
        score = sum(scores) / len(scores)
        if self.protocol.keep == "last" or score > self.score:
            self.score, self.best, self.kept = score, self.passes, found
        return score >= self.protocol.enough

    def figures(self) -> dict[str, dict[str, Any]]:
        """The figures of the epoch that is kept, by variant ("": the task itself)."""
        return {
            name: judged_rows(task, self.kept[name], self.examples[name].labels)
            for name, task in self.tasks.items()
        }


def measured(task: TokenTask, protocol: Protocol) -> dict[str, TokenTask]:
    """The variants of the task to measure after one training, by name."""
    found: dict[str, TokenTask] = {}
    kind: Any = type(task)
    for values in itertools.product(*protocol.measured.values()):
        changed = dict(zip(protocol.measured, values, strict=True))
        name = ", ".join(f"{key} {value}" for key, value in changed.items())
        found[name] = kind(dataclasses.replace(task.config, **changed))
    return found


def protocol_of(task: Task | type[Task], settings: Mapping[str, Any]) -> Protocol:
    """The protocol of a task, with some of its numbers replaced by ``settings``.

    These are ``epochs``, ``batch_size``, or one ``learning_rate`` or ``weight_decay`` instead of
    the published sweep. Raises UserError if the task has no protocol.
    """
    protocol = task.protocol
    if protocol is None:
        raise UserError("the task has no published protocol; give a number of steps (--fit STEPS)")
    changed: dict[str, Any] = {}
    for name, value in settings.items():
        if name in ("epochs", "batch_size"):
            if not isinstance(value, int) or value < 1:
                raise UserError(f"{name} is {value!r}; give a whole number of at least 1")
            changed[name] = value
        elif name in ("learning_rate", "weight_decay"):
            changed[f"{name}s"] = (value,)
    return dataclasses.replace(protocol, **changed)


def follow(
    make: Callable[[], Reader],
    task: TokenTask,
    *,
    settings: Mapping[str, Any],
    seed: int = 0,
    rows: int | None = None,
    say: Say = lambda text: None,
    quiet: bool = True,
) -> dict[str, dict[str, Any]]:
    """Run the sweep of a protocol, and return the figures of the best training by variant.

    ``make`` returns a reader with a new model. ``settings`` overrides numbers of the protocol, and
    training settings that it leaves open; ``rows`` overrides the number of test rows. Each entry
    has ``learning_rate``, ``weight_decay`` and ``epochs`` of the best training, and in ``tried``
    the scores of all; diverged ones have None. Raises UserError if all diverge.

    Deviates: the rate decays per step, not per epoch; weight decay applies to matrices only; Adam's
    epsilon is torch's default.
    """
    protocol = protocol_of(task, settings)
    rest = {name: v for name, v in settings.items() if name not in CHANGED}
    tried: list[dict[str, Any]] = []
    best: tuple[float, Watch] | None = None
    for rate, decay in itertools.product(protocol.learning_rates, protocol.weight_decays):
        about = {"learning_rate": rate, "weight_decay": decay}
        say(f"learning rate {rate:g}, weight decay {decay:g}")
        watch = trained(make(), task, protocol, about | rest, seed=seed, rows=rows, quiet=quiet)
        score = None if watch is None else watch.score
        tried.append(about | {"score": score, "epochs": watch.best if watch else None})
        if watch is not None and (best is None or watch.score > best[0]):
            best = (watch.score, watch)
    if best is None:
        raise UserError("all trainings diverged; set a lower learning_rate")
    chosen = max((one for one in tried if one["score"] is not None), key=lambda x: x["score"])
    about = {name: chosen[name] for name in ("learning_rate", "weight_decay", "epochs")}
    shared = {"protocol": dataclasses.asdict(protocol), "tried": tried}
    return {name: found | about | shared for name, found in best[1].figures().items()}


CHANGED = ("epochs", "batch_size", "learning_rate", "weight_decay")


def trained(
    reader: Reader,
    task: TokenTask,
    protocol: Protocol,
    settings: Mapping[str, Any],
    *,
    seed: int,
    rows: int | None,
    quiet: bool,
) -> Watch | None:
    """Train a reader's model in place by a protocol. Returns None if it diverged."""
    loader = Passes(
        task, rows=task.config.train_examples, batch_size=protocol.batch_size, seed=seed
    )
    watch = Watch(task, protocol, rows=rows or protocol.rows, seed=seed, steps=loader.steps)
    config = train_config(
        {
            "steps": protocol.epochs * loader.steps,
            "batch_size": protocol.batch_size,
            "sequence_length": loader.rows.input_ids.shape[1],
            "warmup": 0.0,
            "schedule": protocol.schedule,
            "final_rate": min(1.0, protocol.lowest_rate / settings["learning_rate"]),
            "beta1": protocol.betas[0],
            "beta2": protocol.betas[1],
            "max_norm": None,
            "carry": False,
            "save_every": 0,
            "rates_by_role": False,  # as published
            "seed": seed,
            **settings,
        }
    )
    model = reader.model
    try:
        if task.readout == "last":

            def look(step: int, readout: Any) -> bool:
                return watch(step, lambda ids: answers_of(model, readout, ids))

            fit_readout(model, task, loader, config, after_step=look)
        else:
            train(
                model,
                loader,
                config,
                quiet=quiet,
                after_step=lambda run: watch(run.totals.step, lambda ids: best_of(model, ids)),
            )
    except NotFinite:
        return None
    return watch


@torch.no_grad()
def best_of(model: Any, ids: Tensor) -> Tensor:
    """The most likely token at every position, computed in eval mode."""
    return answers(model.eval(), ids)
