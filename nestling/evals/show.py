"""Shows results of evaluations side by side: tables and figures for a page."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nestling.core.error import UserError
from nestling.core.result import Result
from nestling.report import Section, Table
from nestling.report.plots import accuracy_by_length, forgetting_matrix, perplexity_by_position

FIGURES = ("count", "score", "low_95", "high_95", "share", "mean", "chance", "forgotten")
TASK_COLUMNS = (*FIGURES, "learning_rate", "weight_decay", "epochs", "seconds")
LM = ("tokens", "loss", "perplexity", "word_perplexity", "byte_perplexity", "bits_per_byte")


def sections(results: Mapping[str, Result]) -> list[Section]:
    """The sections of a page on Results of ``nestling eval``, given by name.

    They show perplexity and its course along the document, the tasks of lm-eval, and the scores of
    tasks: by length as a heat map with one row per model, by stage as a matrix. Raises UserError
    for any other Result.
    """
    kinds = {"eval lm": _lm, "eval commonsense": _commonsense, "eval": _tasks}
    for name, result in results.items():
        if result.name not in kinds:
            raise UserError(f"{name} is a Result of {result.name!r}, not of nestling eval")
    found = []
    for kind, show in kinds.items():
        own = {name: result for name, result in results.items() if result.name == kind}
        found += show(own) if own else []
    return found


def by_file_name(paths: Sequence[Path]) -> dict[str, Result]:
    """Results by the names of their files, or by their paths where names repeat."""
    stems = [path.stem for path in paths]
    return {
        path.stem if stems.count(path.stem) == 1 else str(path): Result.read(path) for path in paths
    }


def _lm(results: Mapping[str, Result]) -> list[Section]:
    rows = [
        (name, result.corpus or "", *(result.metrics[key] for key in LM))
        for name, result in results.items()
    ]
    table = Table(columns=("model", "text", *LM), rows=rows)
    curves = {name: [result.metrics["by_position"]] for name, result in results.items()}
    text = "Perplexity by position in the document; a point is a range, drawn at its middle."
    return [Section("Perplexity", text, [table], [perplexity_by_position(curves)])]


def _commonsense(results: Mapping[str, Result]) -> list[Section]:
    columns = ("questions", "acc", "acc_norm", "chance", "perplexity", "word_perplexity")
    rows = [
        (name, task, *(found.get(column) for column in columns))
        for name, result in results.items()
        for task, found in result.metrics["tasks"].items()
    ]
    return [Section("Commonsense", tables=[Table(columns=("model", "task", *columns), rows=rows)])]


def _tasks(results: Mapping[str, Result]) -> list[Section]:
    names = dict.fromkeys(task for result in results.values() for task in result.metrics["tasks"])
    return [_task(task, results) for task in names]


def _task(task: str, results: Mapping[str, Result]) -> Section:
    found = {
        name: result.metrics["tasks"][task]
        for name, result in results.items()
        if task in result.metrics["tasks"]
    }
    columns = FIGURES
    rows, lengths, figures, notes = [], {}, [], []
    for name, figure in found.items():
        parts = figure.get("parts", {"": figure})
        rows += [(name, part, *(f.get(c) for c in columns)) for part, f in parts.items()]
        by_length = {
            int(part.removeprefix("length ")): f["score"]
            for part, f in parts.items()
            if part.startswith("length ")
        }
        lengths |= {name: by_length} if by_length else {}
        notes += [f"{name}: {f['note']}." for f in parts.values() if "note" in f]
        for f in parts.values():
            if "table" in f:
                figures.append(forgetting_matrix(f["table"], f["stages"]))
    figures += [accuracy_by_length(lengths)] if lengths else []
    table = Table(columns=("model", "part", *columns), rows=rows)
    return Section(task, " ".join(notes), [table], figures)


def task_table(tasks: Mapping[str, Mapping[str, Any]]) -> Table:
    """A table of tasks, one row per measurement, with the mean of several; no empty columns."""
    rows: list[tuple[Any, ...]] = []
    for name, found in tasks.items():
        parts = found.get("parts", {"": found})
        for part, figures in parts.items():
            rows.append((name, part, *(figures.get(column) for column in TASK_COLUMNS)))
        if len(parts) > 1:
            empty = [None] * (len(TASK_COLUMNS) - 2)
            rows.append((name, "mean", None, found["mean_score"], *empty))
    columns = ("task", "part", *TASK_COLUMNS)
    kept = [i for i in range(len(columns)) if any(row[i] not in (None, "") for row in rows)]
    return Table(columns=[columns[i] for i in kept], rows=[[row[i] for i in kept] for row in rows])


def origin(results: Mapping[str, Result]) -> dict[str, Any]:
    """The provenance of each Result, by its name."""
    keys = ("commit", "device", "threads", "date")
    return {
        name: ", ".join(str(result.provenance.get(key)) for key in keys)
        for name, result in results.items()
    }
