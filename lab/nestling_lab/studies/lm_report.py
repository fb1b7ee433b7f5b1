"""The report on models trained on the same tokens: text, costs, commonsense, curves, every run."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from nestling.core.result import Result
from nestling.core.statistics import Paired, interval_text, paired
from nestling.report import Section, Table
from nestling.report.plots import loss_curves, perplexity_by_position
from nestling.train.evaluate import perplexity
from nestling_lab.studies.answers import NOTHING, TESTED, beside, differences, grouped
from nestling_lab.studies.diverged import over, sound, titled
from nestling_lab.studies.study import Cell
from nestling_lab.studies.tuned import rate_text

HOPE = "hope"
COMMONSENSE = (
    "Multiple-choice questions of BIG-bench, the first of each task, for measuring only; the "
    "likeliest choice for each of its characters is the answer, as lm-eval's acc_norm. Models of "
    "this size are not expected to be above chance."
)
SHOWN = f"Mean and 95 % interval over seeds. {TESTED.format(pairs='seeds')}"
COST = (
    "Seconds are those of runs beside others on shared cores; what a step costs beside another "
    "model's is measured by `nestling bench train`, in turns on a quiet machine."
)
PAPER = (
    "Other sizes, data, vocabulary and tokens, one run each and no interval: nothing here can be "
    "compared with a row above."
)


def loss_of(result: Result) -> float:
    """The held-out loss in nats per token; infinite for a diverged run."""
    return math.inf if result.metrics["diverged"] else result.metrics["val_loss"]


def compared(runs: Mapping[str, Mapping[int, Result]], reference: str = HOPE) -> dict[str, Paired]:
    """The loss of each other model minus that of the reference, paired by common seeds."""
    base = runs.get(reference, {})
    found = {model: gap(own, base) for model, own in runs.items() if model != reference}
    return {model: test for model, test in found.items() if test.difference.every}


def gap(one: Mapping[int, Result], other: Mapping[int, Result]) -> Paired:
    """The loss of runs minus that of others, paired by common seeds."""
    both = sorted(one.keys() & other.keys())
    return paired([loss_of(one[seed]) for seed in both], [loss_of(other[seed]) for seed in both])


def answered(figures: Mapping[str, Any], against: Mapping[str, Paired]) -> str:
    """Which system has the lowest perplexity, and how Hope compares with it."""
    known = {
        model: found["val_perplexity"]
        for model, found in figures.items()
        if found["val_perplexity"]["mean"] is not None
    }
    if not known:
        return NOTHING
    best = min(known, key=lambda model: known[model]["mean"])
    told = f"{best} has the lowest held-out perplexity of {len(known)} systems"
    if HOPE not in known:
        return f"{told[0].upper()}{told[1:]}; Hope has not been run yet."
    if best == HOPE:
        return f"Hope's held-out loss is the lowest of {len(known)} systems, {beside(against)}."
    own = f"{known[best]['mean']:.4g} against Hope's {known[HOPE]['mean']:.4g}"
    sure = "significantly lower" if best in grouped(against)[1] else "not significantly different"
    return f"No: {told}, {own}, which is {sure}."


def training_curves(runs: Mapping[str, Mapping[int, Result]]) -> Section:
    """The loss during training."""
    curves: dict[str, list[Mapping[float, float]]] = {
        titled(model, [r.metrics for r in found.values()]): [
            dict(map(tuple, r.metrics["loss_curve"])) for r in sound(found).values()
        ]
        for model, found in runs.items()
    }
    text = "Loss of the batch of a step; the mean over seeds with its 95 % interval."
    return Section("As it is trained", text, figures=[loss_curves(curves)])


def by_position(runs: Mapping[str, Mapping[int, Result]], titles: Mapping[str, str]) -> Section:
    """Perplexity along held-out documents, the mean over seeds in each range of positions."""
    stretches = {
        titled(titles.get(model, model), [r.metrics for r in found.values()]): [
            [part for part in r.metrics["val_by_position"] if part["tokens"]]
            for r in sound(found).values()
        ]
        for model, found in runs.items()
    }
    text = (
        "Perplexity of held-out documents by the place in the document. Every memory reads on "
        "from the document's start; a point is a stretch of positions, drawn at its middle."
    )
    return Section("As a document is read", text, figures=[perplexity_by_position(stretches)])


def notes(figures: Mapping[str, Any]) -> str:
    """The legend of the marks in the table of sizes and rates."""
    if not figures:
        return "No model has finished its grid of learning rates yet."
    edge = any(found["rate_at_edge_of_grid"] for found in figures.values())
    return "* at the edge of the grid: a better rate may lie beyond." if edge else ""


def text_tables(
    figures: Mapping[str, Any], against: Mapping[str, Paired], titles: Mapping[str, str]
) -> tuple[Table, Table]:
    """A table of the figures on held-out text, lowest loss first, and one of sizes and rates."""
    ranked = sorted(figures, key=lambda model: _rank(figures[model]["val_loss"]))
    gaps = differences(against)
    results = [
        (
            titles.get(model, model),
            interval_text(figures[model]["val_perplexity"]),
            interval_text(figures[model]["val_loss"]),
            gaps.get(model, "-"),
        )
        for model in ranked
    ]
    sizes = [
        (
            titles.get(model, model),
            found["num_parameters"],
            found["num_non_embedding"],
            rate_text(found["learning_rate"], found["rate_at_edge_of_grid"]),
            len(found["seeds"]),
            found["tokens_per_second"] and round(found["tokens_per_second"]),
        )
        for model, found in figures.items()
    ]
    return (
        Table(columns=("model", "perplexity", "loss (nats)", "loss less Hope's"), rows=results),
        Table(
            columns=("model", "parameters", "non-embedding", "rate", "seeds", "tokens/s"),
            rows=sizes,
        ),
    )


def _rank(loss: Mapping[str, Any]) -> float:
    return math.inf if loss["mean"] is None else loss["mean"]


def bits_table(figures: Mapping[str, Any]) -> Table:
    """A table of the bits per byte, which do not depend on the tokenizer."""
    rows = [(model, interval_text(found["bits_per_byte"])) for model, found in figures.items()]
    return Table(columns=("model", "bits a byte"), rows=rows)


def cost_table(figures: Mapping[str, Any]) -> Table:
    """A table of the operations and times of training."""
    rows = [
        (
            model,
            found["tokens"],
            found["flops_per_token"] / 1e6,
            found["flops_per_token"] * found["tokens"] / 1e12,
            found["tokens"] / found["tokens_per_second"],
        )
        for model, found in figures.items()
        if found["tokens"]  # empty if every run diverged
    ]
    columns = ("model", "tokens", "Mflop a token", "Tflop", "seconds of training")
    return Table(columns=columns, rows=rows)


def commonsense_table(runs: Mapping[str, Mapping[int, Result]], tasks: Sequence[str]) -> Table:
    """A table of accuracies over seeds, and of chance."""
    rows = []
    for model, found in runs.items():
        each = [result.metrics for result in found.values()]
        asked = any(one.get("commonsense") for one in each)
        cells = [
            str(over(each, lambda one, t=task: one["commonsense"][t]["acc_norm"])) if asked else "-"
            for task in tasks
        ]
        rows.append((model, *cells))
    left = [r.metrics["commonsense"] for found in runs.values() for r in sound(found).values()]
    if left:
        each = left[0]
        chance = [f"{each[task]['chance']:.4g}" if each else "-" for task in tasks]
        rows.append(("chance", *chance))
    return Table(columns=("model", *tasks), rows=rows)


def every_run(cells: Sequence[Cell], done: Mapping[str, Result]) -> Table:
    """A table of all cells, with state and loss."""
    rows = []
    for cell in cells:
        result = done.get(cell.name)
        if result is None:
            rows.append((cell.name, "to do", None, None))
        elif result.metrics["diverged"]:
            rows.append((cell.name, "diverged", None, None))
        else:
            loss = result.metrics["val_loss"]
            rows.append((cell.name, "finished", loss, perplexity(loss)))
    return Table(columns=("cell", "state", "held-out loss", "perplexity"), rows=rows)
