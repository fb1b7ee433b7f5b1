"""BABILong by streaming (the paper's Figure 9): facts in texts far longer than in training."""

import dataclasses
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nestling.core.error import UserError
from nestling.core.result import Result, provenance
from nestling.core.statistics import interval, wilson
from nestling.data import Corpus
from nestling.evals import Reader
from nestling.evals.answer import ask_texts
from nestling.report import Section, Table
from nestling.tasks import TASKS, QuestionTask
from nestling.train import TrainConfig
from nestling_lab.studies.answers import NOTHING, listed
from nestling_lab.studies.figure_niah import MODELS, SIZE
from nestling_lab.studies.needles import Lesson, course, fitted, new_reader
from nestling_lab.studies.study import Cell, Finding, Study, Tell, silent
from nestling_lab.studies.tuned import Tuned, is_edge, rate_text

GROWS = ("transformer",)  # their memory and time a token grow with the text


class BabilongStudy(Study):
    """Small models learn the task in short texts, and read ever longer ones."""

    name = "babilong"
    question = "where is a person, asked after texts of up to a million tokens between the facts"

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Sizes of the study."""

        models: tuple[str, ...] = ("hope", "titans-lmm", "mamba2", "transformer")
        task: str = "babilong-1"
        seeds: tuple[int, ...] = (0, 1)  # of weights and of the examples
        learning_rates: tuple[float, ...] = (1.5e-3, 3e-3)  # the same grid for every model
        corpus: str = "anarchism"  # of the tokenizer and of the prose
        vocab_size: int = 2048
        lessons: tuple[Lesson, ...] = (
            Lesson(steps=300, rows=24, length=160),
            Lesson(steps=100, rows=12, length=256),
        )
        # questions by length in tokens; few where one takes minutes
        counts: tuple[tuple[int, int], ...] = (
            (256, 60), (1024, 60), (4096, 40), (16_384, 20), (65_536, 10), (262_144, 4),
            (1_048_576, 2),
        )  # fmt: skip
        longest_growing: int = 16_384  # tokens, for models whose memory grows
        train: TrainConfig = field(
            default_factory=lambda: TrainConfig(
                carry=False, save_every=0, schedule="wsd", rates_by_role=False
            )
        )

        def __post_init__(self) -> None:
            if not self.lessons or not self.counts:
                raise UserError("lessons or counts is empty; give at least one of each")

    def __init__(self, config: Config | None = None):
        self.config = config or BabilongStudy.Config()
        self.tuned = Tuned(
            models=self.config.models,
            settings=lambda model: self.config.learning_rates,
            seeds=self.config.seeds,
            cell=self.cell,
            loss=lost,
        )

    def cell(self, model: str, rate: float, seed: int) -> Cell:
        """One model, trained and asked at all lengths."""
        config = dataclasses.asdict(self.config)
        for name in ("models", "seeds", "learning_rates"):
            del config[name]
        last = self.config.lessons[-1]
        config |= {"model": model, "preset": f"{model}-tiny"}
        config["overrides"] = {**MODELS[model], "tie_word_embeddings": False}
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
        """Train on short texts, and ask at every length."""
        config = cell.config
        reader, prose = new_reader(config, seed=cell.seed, device=device)
        lessons = [Lesson(**lesson) for lesson in config["lessons"]]

        def task(name: str, lesson: Lesson) -> QuestionTask:
            return asking(reader, name, lesson.length, prose)

        loader = course(reader, [config["task"]], lessons, task, seed=cell.seed)

        def measure() -> dict[str, Any]:
            return {"scores": measured(reader, config, cell.seed, prose)}

        metrics = {"num_parameters": reader.model.num_parameters()}
        metrics |= fitted(reader, loader, config, measure, tell)
        return Result(
            name=f"{self.name}/{cell.name}",
            config=config,
            metrics=metrics,
            seed=cell.seed,
            corpus=prose.tag,
            provenance=provenance(device),
        )

    def find(self, done: Mapping[str, Result]) -> Finding:
        """Shares of right answers by length."""
        runs = {
            model: [run.metrics for run in self.tuned.best_runs(model, done).values()]
            for model in self.config.models
        }
        runs = {model: found for model, found in runs.items() if found}
        whole = [m for m, found in runs.items() if len(found) == len(self.config.seeds)]
        lengths = [length for length, _ in self.config.counts]
        rows = [
            (model, len(found), *(_share(found, length) for length in lengths))
            for model, found in runs.items()
        ]
        columns = ("model", "seeds", *(f"{length:,} tokens" for length in lengths))
        tables = [Table(columns=columns, rows=rows)] if rows else []
        costs = [
            (
                model,
                found[0]["num_parameters"],
                rate_text(
                    self.tuned.best(model, done),
                    is_edge(self.tuned.best(model, done), self.config.learning_rates),
                ),
                str(interval([one["seconds"] for one in found])),
                str(max(map(_rate, found), default=0)),
            )
            for model, found in runs.items()
        ]
        heads = ("model", "parameters", "rate (* edge of grid)", "seconds", "tokens/s, longest")
        sections = [Section("Method", self._about())]
        if costs:
            sections.append(Section("Cost", tables=[Table(columns=heads, rows=costs)]))
        metrics = {
            model: {str(length): _counts(found, length) for length in lengths}
            for model, found in runs.items()
        }
        answer = self.answer(metrics, complete=len(whole) == len(self.config.models))
        return Finding(metrics, sections, answer, Section("In short", SHOWN, tables))

    def answer(self, metrics: Mapping[str, Mapping[str, Sequence[int]]], *, complete: bool) -> str:
        """Who finds most at the training length and at the longest."""
        if not metrics:
            return NOTHING
        parts = []
        for length in (self.config.counts[0][0], self.config.counts[-1][0]):
            own = {
                model: found[str(length)][0] / found[str(length)][1]
                for model, found in metrics.items()
                if found[str(length)][1]
            }
            told = listed(f"{model} {score:.0%}" for model, score in own.items())
            parts.append(f"at {length:,} tokens {told or 'nobody was asked'}")
        head = "Answered right" if complete else "Open; so far answered right"
        return f"{head}: {'; '.join(parts)}."

    def _about(self) -> str:
        own = self.config
        lessons = listed(
            f"{one.steps} steps of {one.rows} texts of {one.length} tokens" for one in own.lessons
        )
        rates = ", ".join(f"{rate:g}" for rate in own.learning_rates)
        return (
            f"`{own.task}` (`nestling/tasks/babilong.py`: where is a person who moved between "
            f"rooms? six rooms, chance 1/6) between sentences of {own.corpus}; training: "
            f"{lessons}; only the answer is a label. A text is read in segments with the memory "
            "carried along and the answer is generated. Models of figure-niah, width "
            f"{SIZE['hidden_size']}; learning rates {rates} with seed {own.seeds[0]}, the best by "
            f"the score at {own.counts[0][0]} tokens goes on (seed {own.seeds[0]} counts too). "
            f"Models whose memory grows with the text ({listed(GROWS)}) are asked at "
            f"up to {own.longest_growing:,} tokens."
        )


SHOWN = "Right of all questions, with Wilson's 95 % intervals over questions of all seeds."


def asking(reader: Reader, name: str, length: int, prose: Corpus) -> QuestionTask:
    """The task with texts of ``length`` tokens of the reader."""
    kind: Any = TASKS.load(name)
    return kind(
        kind.Config(length=length), material=prose, count=lambda text: len(reader.encode(text))
    )


def measured(
    reader: Reader, config: Mapping[str, Any], seed: int, prose: Corpus
) -> dict[str, dict[str, Any]]:
    """By length: [right, asked] and the seconds."""
    found = {}
    for length, count in config["counts"]:
        if config["model"] in GROWS and length > config["longest_growing"]:
            continue
        begin = time.monotonic()
        task = asking(reader, config["task"], length, prose)
        own = ask_texts(reader, task, seed=seed, count=count, new_tokens=8)
        found[str(length)] = {
            "right": [round(own["score"] * count), count],
            "tokens": own["tokens"],
            "seconds": time.monotonic() - begin,
        }
    return found


def lost(result: Result) -> float:
    """The share of wrong answers at the first length; infinite for a diverged run."""
    if result.metrics["diverged"]:
        return math.inf
    right, count = result.metrics["scores"][str(result.config["counts"][0][0])]["right"]
    return 1 - right / count


def _counts(runs: Sequence[Mapping[str, Any]], length: int) -> list[int]:
    every = [run.get("scores", {}).get(str(length), {"right": [0, 0]})["right"] for run in runs]
    return [sum(one[0] for one in every), sum(one[1] for one in every)]


def _share(runs: Sequence[Mapping[str, Any]], length: int) -> str:
    right, count = _counts(runs, length)
    if not count:
        return "-"
    low, high = wilson(right, count)
    return f"{right} of {count} ({low:.2f} to {high:.2f})"


def _rate(run: Mapping[str, Any]) -> int:
    """Tokens a second at the longest texts."""
    scores = run.get("scores", {})
    last = scores[max(scores, key=int)] if scores else {"tokens": 0, "seconds": 1}
    return round(last["tokens"] / last["seconds"])
