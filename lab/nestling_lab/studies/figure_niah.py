"""Needles in a haystack: trained at one length, tested at up to sixteen times that length."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from nestling.core.error import UserError
from nestling.core.result import Result, provenance
from nestling.evals import Reader
from nestling.models.factory import embedding_parameters
from nestling.report import Section
from nestling.tasks import QuestionTask
from nestling.train import TrainConfig
from nestling.train.flops import flops_per_token
from nestling_lab.studies.figure_lm import MODELS as SHAPES
from nestling_lab.studies.figure_lm import SIZE
from nestling_lab.studies.needle_report import (
    FULL,
    TITLES,
    WINDOWED,
    Report,
    every_run,
    lessons_told,
    runs_of,
)
from nestling_lab.studies.needles import (
    Lesson,
    answer_loss,
    course,
    fitted,
    new_reader,
    task_figures,
    task_of,
)
from nestling_lab.studies.study import Cell, Finding, Study, Tell, silent
from nestling_lab.studies.tuned import Tuned, is_edge

HOPE = "hope"
# as in figure-lm, but with an untied head: a tied one would pull together embeddings that it never
# has to distinguish
MODELS: dict[str, dict[str, Any]] = {
    HOPE: {**SHAPES[HOPE]},
    "titans-lmm": {**SHAPES["titans-lmm"]},
    "ttt-mlp": {**SHAPES["ttt-mlp"]},
    "mamba2": {**SHAPES["mamba2"]},
    FULL: {**SHAPES["transformer"], "attention.window": None},
}
LESSONS = (
    Lesson(steps=320, rows=32, length=72, bare=True, tasks=("niah-2",)),
    Lesson(steps=90, rows=24, length=72, bare=True),
    Lesson(steps=180, rows=12, length=256),
)


class FigureNiah(Study):
    """Every model at every learning rate with the first seed, then its best rate with all seeds."""

    name = "figure-niah"
    question = "are needles found in texts up to sixteen times as long as those of training"

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Sizes of the study."""

        models: tuple[str, ...] = tuple(MODELS)
        seeds: tuple[int, ...] = (0, 1, 2)  # of weights and of the examples
        # the same grid for every model
        learning_rates: tuple[float, ...] = (1.5e-3, 3e-3, 6e-3)
        tasks: tuple[str, ...] = tuple(TITLES)  # one model learns all of them
        corpus: str = "anarchism"  # of the tokenizer and of the prose
        vocab_size: int = 2048  # tokens of the BPE trained on it, with single digits
        lessons: tuple[Lesson, ...] = LESSONS  # the last one has the training length
        answer_room: tuple[int, ...] = (12, 12, 40)  # tokens for the answer, task by task
        times: tuple[int, ...] = (1, 2, 4, 8, 16)  # lengths of the tests, in training lengths
        count: int = 20  # questions per task and length
        # rate and seed are replaced in every cell; steps, rows and lengths come from the lessons
        train: TrainConfig = field(
            default_factory=lambda: TrainConfig(
                carry=False, save_every=0, schedule="wsd", rates_by_role=False
            )
        )

        def __post_init__(self) -> None:
            if len(self.answer_room) != len(self.tasks):
                raise UserError(
                    "answer_room and tasks differ in length; give one answer_room per task"
                )
            if not self.lessons:
                raise UserError("lessons is empty; give at least one")
            named = {name for lesson in self.lessons for name in lesson.tasks}
            for name in sorted(named - set(self.tasks)):
                raise UserError(f"a lesson names {name!r}, which is not among the tasks")

        @property
        def length(self) -> int:
            """The text length of the last lesson, in tokens."""
            return self.lessons[-1].length

    def __init__(self, config: Config | None = None):
        self.config = config or FigureNiah.Config()
        self.tuned = Tuned(
            models=self.config.models,
            settings=lambda model: self.config.learning_rates,
            seeds=self.config.seeds,
            cell=self.cell,
            loss=loss_of,
        )

    def cell(self, model: str, rate: float, seed: int) -> Cell:
        """One model, trained on all tasks and asked at all lengths."""
        config = dataclasses.asdict(self.config)
        for name in ("models", "seeds", "learning_rates"):
            del config[name]
        config |= {"model": model, "preset": f"{model}-tiny"}
        config["overrides"] = {**MODELS[model], "tie_word_embeddings": False}
        last = self.config.lessons[-1]
        config["train"] |= {
            "learning_rate": rate,
            "seed": seed,
            "steps": sum(lesson.steps for lesson in self.config.lessons),
            "batch_size": last.rows,
            "sequence_length": last.length,
        }
        return Cell(f"{model}-lr{rate:g}-seed{seed}", config, seed)

    def cells(self, done: Mapping[str, Result]) -> list[Cell]:
        """The grids, and the other seeds at the best rates."""
        return self.tuned.cells(done)

    def run(self, cell: Cell, *, tell: Tell = silent, device: str = "cpu") -> Result:
        """Train on texts of one length, test at every length."""
        config = cell.config
        reader, prose = new_reader(config, seed=cell.seed, device=device)
        room = dict(zip(config["tasks"], config["answer_room"], strict=True))
        lessons = [Lesson(**lesson) for lesson in config["lessons"]]

        def lesson_task(name: str, one: Lesson) -> QuestionTask:
            shape = {"room": room[name], "prose": prose, "bare": one.bare}
            return task_of(reader, name, one.length, **shape)

        def task(name: str, length: int) -> QuestionTask:
            return task_of(reader, name, length, room=room[name], prose=prose)

        def measure() -> dict[str, Any]:
            found = {"accuracy": self._measured(reader, task, cell)}
            if config["model"] == FULL:
                window = {"attention.window": lessons[-1].length}
                options = config["overrides"] | window
                same, _ = new_reader(
                    {**config, "overrides": options, "model": WINDOWED}, seed=0, device=device
                )
                same.model.load_state_dict(reader.model.state_dict())
                same.model.eval()
                found["windowed"] = self._measured(same, task, cell)
            first = str(lessons[-1].length)
            losses = [own[first]["loss"] for own in found["accuracy"].values()]
            return {**found, "answer_loss": sum(losses) / len(losses)}

        model = reader.model
        loader = course(reader, config["tasks"], lessons, lesson_task, seed=cell.seed)
        metrics = {
            "num_parameters": model.num_parameters(),
            "num_non_embedding": model.num_parameters() - embedding_parameters(model),
            "flops_per_token": flops_per_token(model),
            **fitted(reader, loader, config, measure, tell),
        }
        return Result(
            name=f"{self.name}/{cell.name}",
            config=config,
            metrics=metrics,
            seed=cell.seed,
            corpus=prose.tag,
            provenance=provenance(device),
        )

    @staticmethod
    def _measured(
        reader: Reader, task: Callable[[str, int], QuestionTask], cell: Cell
    ) -> dict[str, dict[str, Any]]:
        """By task and length: score and cost of generated answers, and the loss of right ones."""
        config = cell.config
        lengths = [times * config["lessons"][-1]["length"] for times in config["times"]]
        found: dict[str, dict[str, Any]] = {name: {} for name in config["tasks"]}
        for name in config["tasks"]:
            for length in lengths:
                asking = (reader, task(name, length), cell.seed, config["count"])
                found[name][str(length)] = task_figures(*asking) | {"loss": answer_loss(*asking)}
        return found

    def find(self, done: Mapping[str, Result]) -> Finding:
        """A heat map and a table per task, costs, the paper's numbers, and every run."""
        chosen = {name: self.tuned.best_runs(name, done) for name in self.config.models}
        runs = runs_of(chosen)
        lengths = [times * self.config.length for times in self.config.times]
        report = Report(runs=runs, tasks=self.config.tasks, lengths=lengths)
        trained = {name: FULL if name == WINDOWED else name for name in runs}
        rates = {name: self.tuned.best(own, done) for name, own in trained.items()}
        grid = self.config.learning_rates
        edges = {name: is_edge(rate, grid) for name, rate in rates.items()}
        metrics = {
            name: {
                "learning_rate": rates[name],
                "rate_at_edge_of_grid": edges[name],
                "seeds": sorted(found),
                "num_parameters": next(iter(found.values()))["num_parameters"],
                "accuracy": {task: report.scores(task, name) for task in self.config.tasks},
            }
            for name, found in runs.items()
        }
        sections = [
            Section("Method", self._about()),
            *report.sections(rates, edges),
            Section("Every run", tables=[every_run(self.cells(done), done, lengths[0])]),
        ]
        return Finding({"models": metrics}, sections, report.answer(), report.shown)

    def _about(self) -> str:
        config = self.config
        rates = ", ".join(f"{rate:g}" for rate in config.learning_rates)
        return (
            f"One model learns {', '.join(TITLES[task] for task in config.tasks)} together: "
            f"{lessons_told(config.lessons)} The tokenizer is a BPE of {config.vocab_size:,} on "
            f"{config.corpus} in which each digit is a token; the haystack is the training "
            "documents of that corpus; only the answer is a label. Every model is tuned alike: "
            f"learning rates {rates} with seed {config.seeds[0]}; the best by the loss of the "
            "right answers to unseen questions at the length of training goes on with the other "
            f"seeds. Width {SIZE['hidden_size']}, {SIZE['num_hidden_layers']} layers.\n\n"
            f"Then the model is asked {config.count} unseen questions of each task at "
            f"{config.length} tokens and at up to {max(config.times)} times as many, from held-out "
            "documents. A text is read in segments with the memory carried along, and the answer "
            "is generated; a score is the share of answers that hold the value. Intervals are "
            "95 %, by Student's t over the seeds. Transformer++ is there twice, with the same "
            f"weights: seeing all of the text, and through a window of {config.length} tokens, "
            "which in training are the same."
        )


def loss_of(result: Result) -> float:
    """The mean of ``answer_loss`` over tasks; infinite for a diverged run."""
    return math.inf if result.metrics["diverged"] else result.metrics["answer_loss"]
