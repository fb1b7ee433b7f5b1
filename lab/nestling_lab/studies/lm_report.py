"""The report on models trained on the same tokens: text, costs, commonsense, curves, every run."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from nestling.core.result import Result
from nestling.core.statistics import holm, interval_text, paired
from nestling.report import Section, Table
from nestling.report.plots import loss_curves, perplexity_by_position
from nestling.train.evaluate import perplexity
from nestling_lab.studies.answers import NOTHING, beside
from nestling_lab.studies.diverged import over, sound, titled
from nestling_lab.studies.study import Cell

HOPE = "hope"
COMMONSENSE = (
    "Multiple-choice questions of BIG-bench, the first of each task, for measuring only; the "
    "likeliest choice for each of its characters is the answer, as lm-eval's acc_norm. Models of "
    "this size are not expected to be above chance."
)
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


def compared(runs: Mapping[str, Mapping[int, Result]]) -> dict[str, Any]:
    """The loss of each other model minus Hope's, paired by common seeds."""
    hope, found = runs.get(HOPE, {}), {}
    for model, own in runs.items():
        both = sorted(own.keys() & hope.keys())
        if model != HOPE and both:
            found[model] = paired(
                [loss_of(own[seed]) for seed in both], [loss_of(hope[seed]) for seed in both]
            )
    return found


def answered(figures: Mapping[str, Any], against: Mapping[str, Any]) -> str:
    """Which system has the lowest perplexity, and how Hope compares."""
    known = {
        model: found["val_perplexity"]
        for model, found in figures.items()
        if found["val_perplexity"] and found["val_perplexity"]["mean"] is not None
    }
    if not known:
        return NOTHING
    best = min(known, key=lambda model: known[model]["mean"])
    told = (
        f"Of {len(known)} systems {best} has the lowest held-out perplexity, "
        f"{interval_text(known[best])}"
    )
    if HOPE not in known:
        return f"{told}; Hope has not been run yet."
    own = "" if best == HOPE else f" is {interval_text(known[HOPE])}, its loss"
    return f"{told}; {'its loss is' if best == HOPE else 'that of Hope' + own} {beside(against)}."


def verdict(against: Mapping[str, Any], figures: Mapping[str, Any]) -> str:
    """Sentences that compare Hope with each other model."""
    tests = {model: found for model, found in against.items() if found.p_t is not None}
    raised = dict(zip(tests, holm([found.p_t for found in tests.values()]), strict=True))
    below = [m for m, p in raised.items() if p < 0.05 and tests[m].difference.mean > 0]
    above = [m for m, p in raised.items() if p < 0.05 and tests[m].difference.mean < 0]
    open_ = [m for m, p in raised.items() if p >= 0.05]
    parts = [
        f"{one} diverged in {count} of {found.difference.every} runs in which {other} did not."
        for model, found in against.items()
        for one, other, count in ((model, "Hope", found.worse), ("Hope", model, found.better))
        if count
    ]
    if below:
        parts.append(f"Hope's held-out loss is lower than that of {', '.join(below)}.")
    if above:
        parts.append(f"Hope's held-out loss is higher than that of {', '.join(above)}.")
    if open_:
        signed = ", ".join(
            f"{m} ({tests[m].difference.mean:+.3g}, p = {raised[m]:.2g})" for m in open_
        )
        parts.append(f"Not told apart at 5 % (their loss above Hope's in brackets): {signed}.")
    known = {*raised, HOPE, *(m for m, found in against.items() if found.worse or found.better)}
    rest = [model for model in figures if model not in known]
    if rest or not parts:
        parts.append(f"Not yet compared, for want of seeds: {', '.join(rest) or 'any'}.")
    return " ".join(parts)


def curves(runs: Mapping[str, Mapping[int, Result]]) -> list[Section]:
    """The loss during training, and the perplexity along documents."""
    left = {
        titled(model, [r.metrics for r in found.values()]): sound(found).values()
        for model, found in runs.items()
    }
    trained: dict[str, Sequence[Mapping[float, float] | Mapping[int, float]]] = {
        model: [dict(map(tuple, r.metrics["loss_curve"])) for r in found]
        for model, found in left.items()
    }
    by_place = {
        model: [
            [part for part in result.metrics["val_by_position"] if part["tokens"]]
            for result in found
        ]
        for model, found in left.items()
    }
    return [
        Section(
            "As it is trained",
            "Loss of the batch of a step; the mean over seeds with its 95 % interval.",
            figures=[loss_curves(trained)],
        ),
        Section(
            "As a document is read",
            "Perplexity of held-out documents by the place in the document; a point is a stretch "
            "of positions, drawn at its middle.",
            figures=[perplexity_by_position(by_place)],
        ),
    ]


def notes(figures: Mapping[str, Any]) -> str:
    """The legend of the marks in the table."""
    edge = any(found["rate_at_edge_of_grid"] for found in figures.values())
    if not figures:
        return "No model has finished its grid of learning rates yet."
    return (
        "* the best rate is at the edge of the grid: a better one may lie beyond." if edge else ""
    )


def text_table(figures: Mapping[str, Any], against: Mapping[str, Any]) -> Table:
    """A table of sizes, rates and figures on held-out text."""
    rows = [
        (
            model,
            found["num_parameters"],
            found["num_non_embedding"],
            f"{found['learning_rate']:g}" + (" *" if found["rate_at_edge_of_grid"] else ""),
            len(found["seeds"]),
            interval_text(found["val_perplexity"]),
            interval_text(found["word_perplexity"]),
            interval_text(found["bits_per_byte"]),
            str(against[model]) if model in against else "-",
        )
        for model, found in figures.items()
    ]
    columns = (
        "model", "parameters", "non-embedding", "rate", "seeds", "perplexity",
        "by word", "bits a byte", "loss above Hope",
    )  # fmt: skip
    return Table(columns=columns, rows=rows)


def cost_table(figures: Mapping[str, Any]) -> Table:
    """A table of the operations and times of training."""
    rows = [
        (
            model,
            found["tokens"],
            found["flops_per_token"] / 1e6,
            found["flops_per_token"] * found["tokens"] / 1e12,
            found["tokens"] / found["tokens_per_second"],
            round(found["tokens_per_second"]),
        )
        for model, found in figures.items()
        if found["tokens"]  # empty if every run diverged
    ]
    columns = (
        "model", "tokens", "Mflop a token", "Tflop", "seconds of training", "tokens/s",
    )  # fmt: skip
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
