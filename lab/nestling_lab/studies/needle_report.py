"""The report on needles in a haystack: scores and losses by length, costs, every run."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nestling.core.result import Result
from nestling.core.statistics import Interval, interval, paired
from nestling.report import Section, Table
from nestling.report.plots import accuracy_by_length
from nestling_lab.published import published
from nestling_lab.studies.answers import NOTHING, TESTED, listed, outcomes, share
from nestling_lab.studies.diverged import over, titled
from nestling_lab.studies.needles import Lesson
from nestling_lab.studies.study import Cell
from nestling_lab.studies.tuned import rate_text

FULL = "transformer"
WINDOWED = "transformer-window"  # the same weights with a window of the training length
TITLES = {
    "niah-1": "S-NIAH-1 (pass key in noise)",
    "niah-2": "S-NIAH-2 (number in prose)",
    "niah-3": "S-NIAH-3 (UUID in prose)",
}
PAPER = (
    "Models trained as language models on 50 billion tokens, not on the task; size not stated, one "
    "run each, no interval. Their lengths are 4K, 8K and 16K tokens."
)
Runs = Mapping[str, Mapping[int, Mapping[str, Any]]]  # figures by model and seed


def runs_of(chosen: Mapping[str, Mapping[int, Result]]) -> dict[str, dict[int, Any]]:
    """The figures of finished runs; those of Transformer++ also with a window."""
    runs = {name: {seed: r.metrics for seed, r in found.items()} for name, found in chosen.items()}
    runs = {name: found for name, found in runs.items() if found}
    if FULL in runs:
        runs[WINDOWED] = {
            seed: one | {"accuracy": one.get("windowed")} for seed, one in runs[FULL].items()
        }
    return runs


@dataclass(frozen=True, kw_only=True)
class Report:
    """Figures of runs by model and seed, on these tasks, at these lengths in tokens."""

    runs: Runs
    tasks: Sequence[str]
    lengths: Sequence[int]

    def sections(
        self, rates: Mapping[str, float | None], edges: Mapping[str, bool]
    ) -> list[Section]:
        """Each task, costs, and the paper's numbers."""
        columns = tuple(f"S-NIAH-{i} {length}" for i in (1, 2, 3) for length in ("4K", "16K"))
        paper = Section("What the paper prints", PAPER, [published("niah", columns=columns)])
        if not self.runs:
            none = "No model has finished its grid of learning rates yet."
            return [Section("Scores", none), paper]
        return [
            *(self.task(task) for task in self.tasks),
            Section("Cost of a run", tables=[self.cost(rates, edges)]),
            paper,
        ]

    def scores(self, task: str, model: str) -> dict[str, Any]:
        """The mean score and interval over seeds, by length."""
        return {
            str(n): found.record() for n, found in self._by_length(task, model, "score").items()
        }

    def _by_length(self, task: str, model: str, figure: str) -> dict[int, Interval]:
        return {n: interval(self._values(task, model, n, figure)) for n in self.lengths}

    def _values(self, task: str, model: str, length: int, figure: str) -> list[float]:
        """The values of all seeds; NaN for a diverged run."""
        return [
            math.nan if one["diverged"] else one["accuracy"][task][str(length)][figure]
            for one in self.runs[model].values()
        ]

    def answer(self) -> str:
        """The best model of each task at the longest texts."""
        if not self.runs:
            return NOTHING
        last, parts = self.lengths[-1], []
        for task in self.tasks:
            found = {m: self._by_length(task, m, "score")[last] for m in self.runs}
            found = {m: score for m, score in found.items() if score.count}
            name = TITLES[task].partition(" ")[0]
            if not found:
                parts.append(f"in {name} every run diverged")
                continue
            best = min(found, key=lambda m, f=found: f[m].rank(larger_is_better=True))
            most = found[best].mean
            own = f"{best} finds {share(most)}" if most else "nothing is found"
            parts.append(f"{own} in {name}")
        times = last // self.lengths[0]
        return f"At {times} times the length of training {listed(parts)}."

    @property
    def shown(self) -> Section:
        """The change of the score from the training length to the longest, by model."""
        first, last = self.lengths[0], self.lengths[-1]
        columns = {}
        for task in self.tasks:
            ends = {
                m: [self._values(task, m, n, "score") for n in (first, last)] for m in self.runs
            }
            tests = {m: paired(b, a, larger_is_better=True) for m, (a, b) in ends.items()}
            told = outcomes(tests)
            columns[TITLES[task]] = {
                m: _change(*map(interval, pair), told.get(m)) for m, pair in ends.items()
            }
        rows = [(model, *(column[model] for column in columns.values())) for model in self.runs]
        text = (
            f"Share of needles found at {first} tokens, the length of training, and at {last:,}. "
            + TESTED.format(pairs="seeds")
        )
        return Section(
            "In short", text, [Table(columns=("model", *columns), rows=rows)] if rows else []
        )

    def task(self, task: str) -> Section:
        """Scores and losses of one task by length."""
        scores, losses = (
            {model: self._by_length(task, model, figure) for model in self.runs}
            for figure in ("score", "loss")
        )
        means = {
            titled(model, self.runs[model].values()): {n: x.mean for n, x in found.items()}
            for model, found in scores.items()
        }
        return Section(
            TITLES[task],
            tables=[
                self._table(scores, "score"),
                self._table(losses, "nats a token of the right answer"),
            ],
            figures=[accuracy_by_length(means)],
        )

    def _table(self, figures: Mapping[str, Mapping[int, Interval]], title: str) -> Table:
        rows = [(name, *(str(one[n]) for n in self.lengths)) for name, one in figures.items()]
        return Table(columns=(title, *(f"{n:,} tokens" for n in self.lengths)), rows=rows)

    def cost(self, rates: Mapping[str, float | None], edges: Mapping[str, bool]) -> Table:
        """A table of sizes, rates and times of the trained models."""
        rows = []
        for model, found in self.runs.items():
            if model == WINDOWED:
                continue
            one = next(iter(found.values()))
            rows.append(
                (
                    model,
                    one["num_parameters"],
                    one["num_non_embedding"],
                    rate_text(rates[model], edges[model]),
                    len(found),
                    one["flops_per_token"] / 1e6,
                    over(found.values(), lambda run: run["seconds_fit"]).record()["mean"],
                    over(found.values(), lambda run: run["seconds"]).record()["mean"],
                )
            )
        columns = (
            "model", "parameters", "non-embedding", "rate (*: edge of the grid)", "seeds",
            "Mflop a token", "seconds of training", "seconds in all",
        )  # fmt: skip
        return Table(columns=columns, rows=rows)


def _change(start: Interval, end: Interval, outcome: str | None) -> str:
    if not start.count:
        return "diverged"
    lost = f" ({start.diverged} of {start.every} diverged)" if start.diverged else ""
    said = f" ({outcome})" if outcome else lost
    return f"{start.mean:.2f} to {end.mean:.2f}{said}"


def every_run(cells: Sequence[Cell], done: Mapping[str, Result], length: int) -> Table:
    """A table of all cells, with state and figures at one length."""
    rows = []
    for cell in cells:
        result = done.get(cell.name)
        if result is None or result.metrics["diverged"]:
            rows.append((cell.name, "to do" if result is None else "diverged", None, None))
        else:
            found = result.metrics
            scores = [one[str(length)]["score"] for one in found["accuracy"].values()]
            rows.append((cell.name, "finished", found["answer_loss"], sum(scores) / len(scores)))
    columns = (
        "cell", "state", "loss of unseen answers (nats a token)",
        "mean score at the length of training",
    )  # fmt: skip
    return Table(columns=columns, rows=rows)


def lessons_told(lessons: Sequence[Lesson]) -> str:
    """The lessons in words."""
    told = [
        f"{lesson.steps:,} steps of {lesson.rows} texts of at most {lesson.length} tokens"
        + (" between a bare value and the end of a question" if lesson.bare else "")
        + (f" ({', '.join(lesson.tasks)} alone)" if lesson.tasks else "")
        for lesson in lessons
    ]
    return f"{', then '.join(told)}."
