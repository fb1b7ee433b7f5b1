"""Small models trained on synthetic tasks as the tasks' sources train theirs, but for less long."""

import dataclasses
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, ClassVar

from nestling.core.result import Result, provenance
from nestling.core.statistics import interval
from nestling.evals.fit import fresh
from nestling.evals.protocol import protocol_of, trained
from nestling.report import Section, Table
from nestling.tasks import TASKS, TokenTask
from nestling_lab.published import published
from nestling_lab.studies.answers import NOTHING, apart, listed
from nestling_lab.studies.study import Cell, Finding, Study, Tell, silent
from nestling_lab.studies.tuned import Tuned, is_edge, rate_text

HOPE = "hope"
Scores = Mapping[int, Mapping[str, float]]  # by seed and variant


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Sizes of a study by protocol."""

    models: tuple[str, ...]
    tasks: tuple[str, ...]  # names in nestling.tasks.TASKS
    seeds: tuple[int, ...]  # of weights and rows; the first one chooses the rate
    learning_rates: tuple[float, ...]  # the same grid for every model and task
    epochs: int  # passes over the rows, at most
    train_examples: int  # rows to train on
    batch_size: int  # rows of a step; smaller than published, for more steps in fewer passes
    rows: int  # test rows of each variant
    weight_decay: float = 0.0


PASSES = ("epochs", "batch_size")
COMMON = (*PASSES, "train_examples", "rows", "weight_decay")


class ByProtocol(Study):
    """Every model on every task at every rate with one seed, then its best rate with all seeds."""

    MODELS: ClassVar[Mapping[str, Mapping[str, Any]]]  # overrides of the tiny presets
    PRESETS: ClassVar[Mapping[str, str]] = {}  # of models that are not named after their preset
    PAPER: ClassVar[str]  # table of the paper
    TITLES: ClassVar[Mapping[str, str]]  # of the tasks
    ABOUT: ClassVar[str]  # what is measured, for the page

    SIZES: ClassVar[Sizes]

    def __init__(self, config: Sizes | None = None):
        self.config = config or self.SIZES
        self.tuned = Tuned(
            models=[f"{m} {t}" for t in self.config.tasks for m in self.config.models],
            settings=lambda pair: self.config.learning_rates,
            seeds=self.config.seeds,
            cell=self._cell,
            loss=lost,
        )

    def _cell(self, pair: str, rate: float, seed: int) -> Cell:
        return self.cell(*pair.split(), rate, seed)

    def cell(self, model: str, task: str, rate: float, seed: int) -> Cell:
        """One training."""
        own = self.config
        config = {
            "model": model,
            "preset": self.PRESETS.get(model, f"{model}-tiny"),
            "overrides": dict(self.MODELS[model]),
            "task": task,
            "learning_rate": rate,
            **{name: getattr(own, name) for name in COMMON},
        }
        return Cell(f"{task}-{model}-lr{rate:g}-seed{seed}", config, seed)

    def cells(self, done: Mapping[str, Result]) -> list[Cell]:
        """The grids, and the other seeds at the best rates."""
        return self.tuned.cells(done)

    def run(self, cell: Cell, *, tell: Tell = silent, device: str = "cpu") -> Result:
        """Train one model, evaluated after every pass."""
        config = cell.config
        task = sized(config["task"], config["train_examples"])
        protocol = protocol_of(task, {name: config[name] for name in PASSES})
        reader = fresh(
            config["preset"], task, seed=cell.seed, segment=512, options=config["overrides"]
        )
        reader.model.to(device)
        settings = {name: config[name] for name in ("learning_rate", "weight_decay")}
        begin = time.monotonic()
        watch = trained(
            reader, task, protocol, settings, seed=cell.seed, rows=config["rows"], quiet=True
        )
        metrics: dict[str, Any] = {
            "num_parameters": reader.model.num_parameters(),
            "diverged": watch is None,
            "seconds": time.monotonic() - begin,
        }
        if watch is not None:
            figures = watch.figures()
            metrics |= {
                "score": watch.score,
                "scores": {name: found["score"] for name, found in figures.items()},
                "chance": {name: found["chance"] for name, found in figures.items()},
                "pass": watch.best,
                "passes": watch.passes,
            }
            tell(watch.passes, protocol.epochs, 1 - watch.score)
        return Result(
            name=f"{self.name}/{cell.name}",
            config=config,
            metrics=metrics,
            seed=cell.seed,
            corpus=None,
            provenance=provenance(device),
        )

    def found(self, done: Mapping[str, Result]) -> dict[str, dict[str, Scores]]:
        """By model and task: the scores of the finished runs at the best rate."""
        return {
            model: {
                task: {
                    seed: run.metrics.get("scores", {})
                    for seed, run in self.tuned.best_runs(f"{model} {task}", done).items()
                }
                for task in self.config.tasks
            }
            for model in self.config.models
        }

    def find(self, done: Mapping[str, Result]) -> Finding:
        """A table of models and tasks, the paper's numbers, rates and costs."""
        found = self.found(done)
        metrics = {
            model: {task: mean(runs) for task, runs in own.items() if runs}
            for model, own in found.items()
        }
        tasks = self.config.tasks
        columns = ("model", *(self.TITLES[task] for task in tasks), "mean")
        rows = [
            (model, *(shown(own[task]) for task in tasks), shown_mean(own, tasks))
            for model, own in found.items()
            if any(own.values())
        ]
        tables = [Table(columns=columns, rows=rows)] if rows else []
        sections = [
            Section("Method", self.about()),
            Section("What the paper prints", "", [published(self.PAPER)]),
        ]
        if rows:
            sections.append(Section("Rates and cost", tables=[self._costs(done)]))
        answer = self.answer(found) if rows else NOTHING
        return Finding(metrics, sections, answer, Section("In short", self.ABOUT, tables))

    def answer(self, found: Mapping[str, Mapping[str, Scores]]) -> str:
        """Which models score highest over all tasks, and whether Hope's lead is significant."""
        means = {
            model: means_by_seed(own, self.config.tasks)
            for model, own in found.items()
            if all(len(own[task]) == len(self.config.seeds) for task in self.config.tasks)
        }
        if len(means) < len(self.config.models):
            return f"Open: {len(means)} of {len(self.config.models)} models are complete."
        order = sorted(means, key=lambda model: -fmean(means[model]))
        told = listed(f"{model} ({fmean(means[model]):.3f})" for model in order)
        if order[0] != HOPE:
            behind = apart(interval(means[order[0]]), interval(means[HOPE]))
            verdict = f"Hope is {'' if behind else 'not significantly '}behind {order[0]}"
        else:
            ahead = apart(interval(means[HOPE]), interval(means[order[1]]))
            verdict = f"Hope is first{'' if ahead else ', not significantly'}"
        return f"{verdict}: by the mean over the tasks the order is {told}."

    def about(self) -> str:
        """The method, for the page."""
        own, task = self.config, sized(self.config.tasks[0], self.config.train_examples)
        protocol = protocol_of(task, {})
        rates = ", ".join(f"{rate:g}" for rate in own.learning_rates)
        return (
            "Every model is trained anew on each task, by the protocol of the task "
            f"(`nestling/evals/protocol.py:trained`; {protocol.source}), but for at most "
            f"{own.epochs} passes over {own.train_examples:,} rows in batches of {own.batch_size} "
            f"(published: {protocol.epochs} over {type(task)().config.train_examples:,} in batches "
            f"of {protocol.batch_size}), with weight decay {own.weight_decay:g}, and is tested on "
            f"{own.rows:,} unseen rows. Learning rates {rates} are tried with seed {own.seeds[0]} "
            "for every model and task alike; the best on the test rows goes on with the other "
            f"seeds, and seed {own.seeds[0]} counts too. Of the passes the {protocol.keep} one "
            "counts, as published. Means with 95 % intervals over seeds (Student's t). Models:\n\n"
            + "\n".join(
                f"- {model}: `{', '.join(f'{k}={v}' for k, v in self.MODELS[model].items())}`"
                for model in own.models
            )
        )

    def _costs(self, done: Mapping[str, Result]) -> Table:
        rows = []
        for pair in self.tuned.models:
            runs, rate = self.tuned.best_runs(pair, done), self.tuned.best(pair, done)
            if not runs:
                continue
            model, task = pair.split()
            edge = is_edge(rate, self.config.learning_rates)
            each = [run.metrics for run in runs.values()]
            rows.append(
                (
                    self.TITLES[task],
                    model,
                    each[0]["num_parameters"],
                    rate_text(rate, edge),
                    str(interval([float(one.get("passes", 0)) for one in each])),
                    str(interval([one["seconds"] for one in each])),
                )
            )
        columns = ("task", "model", "parameters", "rate (* edge of grid)", "passes", "seconds")
        return Table(columns=columns, rows=rows)


def sized(name: str, train_examples: int) -> TokenTask:
    """A task with another number of training rows."""
    kind = TASKS.load(name)
    assert issubclass(kind, TokenTask)
    task = kind()
    return kind(dataclasses.replace(task.config, train_examples=train_examples))


def lost(result: Result) -> float:
    """One minus the mean test score; infinite for a diverged run."""
    return math.inf if result.metrics["diverged"] else 1 - result.metrics["score"]


def variants(runs: Scores) -> list[str]:
    """The variants that were measured; a diverged run has none, which counts as 0."""
    return list(next((run for run in runs.values() if run), {"": 0.0}))


def mean(runs: Scores) -> dict[str, float]:
    """The mean score of each variant."""
    names = variants(runs)
    return {name: fmean(run.get(name, 0.0) for run in runs.values()) for name in names}


def shown(runs: Scores) -> str:
    """The scores of a task with intervals; variants are separated by a slash."""
    if not runs:
        return "-"
    names = variants(runs)
    return " / ".join(str(interval([run.get(n, 0.0) for run in runs.values()])) for n in names)


def means_by_seed(own: Mapping[str, Scores], tasks: Sequence[str]) -> list[float]:
    """The mean over tasks and variants, for each seed that all tasks have."""
    seeds = set.intersection(*(set(own[task]) for task in tasks))
    return [
        fmean(fmean(own[task][seed].values() or [0.0]) for task in tasks) for seed in sorted(seeds)
    ]


def shown_mean(own: Mapping[str, Scores], tasks: Sequence[str]) -> str:
    """The mean over all tasks, if all have been run."""
    if not all(own[task] for task in tasks):
        return "-"
    return str(interval(means_by_seed(own, tasks)))
