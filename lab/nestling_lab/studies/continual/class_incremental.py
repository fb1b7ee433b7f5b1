"""Class-incremental learning (the paper's Figure 6): new classes stage by stage, no replay."""

import copy
import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from nestling.continual.learner import ContinualLearner
from nestling.continual.state import Options
from nestling.core.result import Result, provenance
from nestling.core.statistics import interval
from nestling.evals.reader import Reader
from nestling.evals.stages import Learned, ask_stages
from nestling.models.pretrained import parse_levels
from nestling.report import Section, Table
from nestling.tasks import TASKS, Question, Stage, StageTask
from nestling_lab.studies.answers import NOTHING, apart, listed
from nestling_lab.studies.continual.base import Ready, real
from nestling_lab.studies.study import Cell, Finding, Study, Tell, silent
from nestling_lab.studies.tuned import Tuned, is_edge, rate_text

CONTEXT = "context"
# periods of the levels that are written, in tokens; all layers but the embeddings
READERS: dict[str, tuple[str, tuple[int, ...]]] = {
    CONTEXT: ("context alone", ()),
    "levels-1": ("and 1 level", (64,)),
    "levels-2": ("and 2 levels", (64, 256)),
    "levels-3": ("and 3 levels", (64, 256, 1024)),
}


class Written(Learned):
    """Lessons are read by a learner, which writes its levels; questions see the end of them too.

    ``reader`` must have its own copy of the model, whose weights become those of the learner.
    """

    def __init__(self, reader: Reader, learner: ContinualLearner):
        super().__init__(reader)
        self.learner = learner

    def read(self, lessons: Sequence[Question]) -> None:
        """Read the lessons of the next stage, and take over the written weights."""
        begin = len(self.ids)
        super().read(lessons)
        first = self.learner.tokens_read == 0
        self.learner.read_tokens(self.ids[0 if first else begin :], begins=first)
        own = dict(self.reader.model.named_parameters())
        with torch.no_grad():
            for name, value in self.learner.weights().items():
                own[name].copy_(value)
        self.seen, self.cache = [], None


class ClassIncremental(Study):
    """Every reader learns the same classes; rates are tuned with the first seed."""

    name = "class-incremental"
    question = "does a model of levels keep classes that it has learned while it learns others"

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Sizes of the study."""

        model: str = "smollm2-135m-instruct"
        readers: tuple[str, ...] = tuple(READERS)
        seeds: tuple[int, ...] = (0, 1, 2)  # of the classes and their texts
        learning_rates: tuple[float, ...] = (3e-5, 1e-4)  # of all levels
        task: str = "incremental-intents"
        stages: int = 5
        classes: int = 4  # new ones per stage
        lessons: int = 8  # texts to learn from, per class
        questions: int = 3  # texts to ask about, per class
        context: int = 1024  # tokens of the lessons that a question follows, at most
        segment: int = 64  # tokens read at a time

    def __init__(self, config: Config | None = None):
        self.config = config or ClassIncremental.Config()
        self.tuned = Tuned(
            models=self.config.readers,
            settings=lambda reader: (0.0,) if reader == CONTEXT else self.config.learning_rates,
            seeds=self.config.seeds,
            cell=self.cell,
            loss=lambda result: 1 - result.metrics["score"],
        )

    def cell(self, reader: str, rate: float, seed: int) -> Cell:
        """One reader, with one learning rate."""
        config = dataclasses.asdict(self.config)
        for name in ("readers", "seeds", "learning_rates"):
            del config[name]
        config |= {"reader": reader, "periods": list(READERS[reader][1]), "rate": rate}
        return Cell(f"{reader}-lr{rate:g}-seed{seed}", config, seed)

    def cells(self, done: Mapping[str, Result]) -> list[Cell]:
        """The grids, and the other seeds at the best rates."""
        return self.tuned.cells(done)

    def run(self, cell: Cell, *, tell: Tell = silent, device: str = "cpu") -> Result:
        """Teach the stages and ask after each."""
        config = cell.config
        begin = time.process_time()
        task = task_of(config)
        metrics = taught(real(config["model"]), task, config, cell.seed, tell)
        return Result(
            name=f"{self.name}/{cell.name}",
            config=config,
            metrics=metrics | {"cpu_seconds": time.process_time() - begin},
            seed=cell.seed,
            corpus=task.material.tag,
            provenance=provenance(device),
        )

    def find(self, done: Mapping[str, Result]) -> Finding:
        """Accuracy over all classes after each stage, learned and forgotten."""
        runs = {
            reader: [run.metrics for run in self.tuned.best_runs(reader, done).values()]
            for reader in self.config.readers
        }
        runs = {reader: found for reader, found in runs.items() if found}
        stages = range(self.config.stages)
        rows, courses, costs = [], [], []
        for reader, found in runs.items():
            title, rate = READERS[reader][0], self.tuned.best(reader, done)
            edge = reader != CONTEXT and is_edge(rate, self.config.learning_rates)
            rows.append(
                (title, len(found), *(over(found, k) for k in ("score", "learned", "forgotten")))
            )
            courses.append((title, *(after_stage(found, stage) for stage in stages)))
            shown = "-" if reader == CONTEXT else rate_text(rate, edge)
            costs.append((title, shown, over(found, "cpu_seconds")))
        columns = ("lessons in", "seeds", "right after all stages", "just after", "forgotten")
        tables = [Table(columns=columns, rows=rows)] if rows else []
        sections = [Section("Method", self._about())]
        if rows:
            heads = ("lessons in", *(f"after {stage + 1}" for stage in stages))
            cost = ("lessons in", "rate (* edge of grid)", "CPU seconds")
            sections += [
                Section("Stage by stage", _COURSE, [Table(columns=heads, rows=courses)]),
                Section("Rates and cost", tables=[Table(columns=cost, rows=costs)]),
            ]
        metrics = {
            reader: {
                k: [one[k] for one in found]
                for k in ("score", "learned", "forgotten", "chance", "tokens", "tokens_seen")
            }
            for reader, found in runs.items()
        }
        whole = {k: v for k, v in metrics.items() if len(runs[k]) == len(self.config.seeds)}
        answer = self.answer(whole) if metrics else NOTHING
        return Finding(metrics, sections, answer, Section("In short", "", tables))

    def answer(self, metrics: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
        """Whether the best model of levels is ahead of the context alone."""
        scores = {reader: interval(found["score"]) for reader, found in metrics.items()}
        if set(scores) != set(self.config.readers) or len(scores) < 2:
            return "Open: not all readers have been run with all seeds."
        base = scores.pop(CONTEXT)
        best = max(scores, key=lambda reader: scores[reader].mean)
        ahead = scores[best].mean > base.mean
        sure = "" if apart(scores[best], base) else ", not significantly"
        told = listed(f"{found.mean:.2f} {READERS[one][0]}" for one, found in scores.items())
        return (
            f"{'Yes' if ahead else 'No'}{sure}: after {self.config.stages} stages "
            f"{base.mean:.2f} of the questions about all classes are right with the "
            f"last lessons in the context, and {told}."
        )

    def _about(self) -> str:
        own = self.config
        rates = ", ".join(f"{rate:g}" for rate in own.learning_rates)
        return (
            f"{own.model} reads {own.stages} stages of `{own.task}` (home commands of Home "
            f"Assistant, Apache-2.0), each with {own.classes} new classes and {own.lessons} "
            "lessons a class (a text and the name of its class), once, without replay or a hint of "
            f"the stage. After each it is asked about {own.questions} unseen texts of every class "
            "so far; the likeliest name of a class counts, of all classes so far. A question "
            f"follows the last {own.context:,} tokens of the lessons at most. Levels are "
            "written meanwhile by Adam, by the loss of the next token: periods of "
            f"{', '.join(map(str, READERS['levels-3'][1]))} tokens for three of them, whole layers "
            "from the upper ones (fast) to the lower ones (slow), `nestling/continual/learner.py`. "
            f"Learning rates {rates} with seed {own.seeds[0]}; the best goes on with the other "
            f"seeds, and seed {own.seeds[0]} counts too; the context alone has nothing to tune. "
            "*Forgotten*: the best score on a stage so far less that after all stages. "
            "Means with 95 % intervals over seeds (Student's t)."
        )


_COURSE = "Right of the questions about all classes so far, after each stage."


def task_of(config: Mapping[str, Any]) -> StageTask:
    """The task of a cell."""
    kind: Any = TASKS.load(config["task"])
    sizes = {name: config[name] for name in ("stages", "classes", "lessons", "questions")}
    return kind(dataclasses.replace(kind().config, **sizes))


def taught(
    base: Ready, task: StageTask, config: Mapping[str, Any], seed: int, tell: Tell = silent
) -> dict[str, Any]:
    """Scores after every stage."""
    reader = Reader(copy.deepcopy(base.model), base.tokenizer, name=config["reader"])
    reader.horizon = config["context"]
    learned = Learned(reader)
    if config["periods"]:
        levels = parse_levels(",".join(f"{p}:{config['rate']}" for p in config["periods"]))
        options = Options(segment=config["segment"], window=config["context"])
        learner = ContinualLearner(
            base.model, base.tokenizer, levels, variant="whole", options=options
        )
        learned = Written(reader, learner)

    def learn(index: int, stage: Stage) -> Learned:
        learned.read(stage.learn)
        return learned

    found = ask_stages(
        task, learn, seed=seed, tell=lambda done, total: tell(done, total, float("nan"))
    )
    return {**found, "chance": task.chance}


def over(runs: Sequence[Mapping[str, Any]], name: str) -> str:
    """The mean of a figure with its interval."""
    return str(interval([run[name] for run in runs]))


def after_stage(runs: Sequence[Mapping[str, Any]], stage: int) -> str:
    """The mean score over the stages so far, with its interval."""
    return str(interval([sum(run["table"][stage]) / (stage + 1) for run in runs]))
