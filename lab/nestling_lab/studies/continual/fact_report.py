"""The report of the study of facts: tables, figures and sentences from the replies."""

from collections.abc import Mapping, Sequence
from typing import Any

from nestling.core.result import Result
from nestling.core.statistics import interval
from nestling.report import Section, Table
from nestling.report.figure import Curve, lines
from nestling.tasks.facts import CHOICES
from nestling_lab.studies.answers import NOTHING, TESTED, differences, grouped, listed
from nestling_lab.studies.continual.fact_figures import (
    CONTROL,
    FULL,
    MARGIN,
    RIGHT,
    SAID,
    STORING,
    Runs,
    above,
    bound,
    over,
    strangers,
)
from nestling_lab.studies.continual.fact_readers import READERS
from nestling_lab.studies.study import Finding


def report(config: Any, found: Runs, trials: Mapping[str, Any]) -> Finding:
    """The whole report, for any subset of the cells."""
    distances = config.distances
    metrics: dict[str, Any] = {}
    for name, runs in found.items():
        metrics[name] = {
            "accuracy": {str(d): over(runs, d, RIGHT).record() for d in distances},
            "margin": {str(d): over(runs, d, MARGIN).record() for d in distances},
            "said": {str(d): over(runs, d, SAID).record() for d in distances},
            "strangers": strangers(runs).record(),
            "setting": runs[0].config["setting"],
        }
    sections = [Section("Method", about(config))]
    if found:
        sections += [
            Section(
                "Accuracy over the distance",
                f"Share of questions whose right answer is the likeliest of {CHOICES}; chance "
                f"{1 / CHOICES:g}. Documents read since, in the columns.",
                tables=[by_distance(found, distances, RIGHT)],
                figures=[curves(found, distances, RIGHT, "accuracy")],
            ),
            Section(
                "Margin over the distance",
                "Log-likelihood of the right answer less the mean of the wrong ones, nats; 0 is "
                "no knowledge.",
                tables=[by_distance(found, distances, MARGIN)],
                figures=[curves(found, distances, MARGIN, "margin (nats)")],
            ),
            Section("Against each other", AGAINST, tables=[compared(found, max(distances))]),
            Section("Besides", BESIDES, tables=[besides(found, max(distances))]),
        ]
    if any(trials.values()):
        sections.append(Section("Settings", TRIED, tables=[settings(trials)]))
    shown = Section("In short", SHOWN, [gaps(found, max(distances))] if CONTROL in found else [])
    return Finding(metrics, sections, answer(config, found), shown)


SHOWN = (
    f"Share of questions whose right answer is the likeliest of {CHOICES}, and how much that is "
    f"above the control, which read nothing. {TESTED.format(pairs='documents')}"
)
AGAINST = (
    "The margin is the safer measure of the two (see the method). Strangers: accuracy just after "
    "the document, less that on the same questions about a name that was never read. "
    + TESTED.format(pairs="documents")
)
BESIDES = (
    "Strangers: the same questions just after the document, about a name that was never read; what "
    "is right there is not bound to the name. Said: share of questions whose answer is what the "
    "model would write, token for token. Known: rise of the loss of held-out Python documentation."
)
TRIED = (
    "Loss over the choices on documents of their own; the least goes on (ln 4 = 1.386: chance). "
    "Where that is the least or the greatest value tried, a better one may lie beyond."
)


def by_distance(found: Runs, distances: Sequence[int], place: int) -> Table:
    """A table with one row per reader."""
    rows = [
        (READERS[name].title, *(str(over(runs, d, place)) for d in distances))
        for name, runs in found.items()
    ]
    return Table(columns=("reader", *map(str, distances)), rows=rows)


def curves(found: Runs, distances: Sequence[int], place: int, label: str) -> str:
    """A figure with one line per reader."""
    drawn = {}
    for name, runs in found.items():
        drawn[_titled(name, runs, distances, place)] = Curve(
            distances, [over(runs, d, place).mean for d in distances]
        )
    return lines(drawn, x_label="documents read since", y_label=label, marks=True)


def _titled(name: str, runs: Sequence[Result], distances: Sequence[int], place: int) -> str:
    lost = any(over(runs, distance, place).diverged for distance in distances)
    return READERS[name].title + (" (in part diverged)" if lost else "")


def besides(found: Runs, far: int) -> Table:
    """A table of storage, setting, strangers, spoken answers, and earlier knowledge."""
    rows = []
    for name, runs in found.items():
        rise = [100 * (run.metrics["known"][1] / run.metrics["known"][0] - 1) for run in runs]
        rows.append(
            (
                READERS[name].title,
                "yes" if name in STORING else "no",
                ", ".join(f"{k} {v:g}" for k, v in runs[0].config["setting"].items()),
                runs[0].metrics["updates"],
                str(strangers(runs)),
                str(over(runs, 0, SAID)),
                str(over(runs, far, SAID)),
                str(interval(rise)),
            )
        )
    columns = (
        "reader", "stores text", "setting", "updates", "strangers", "said at 0", f"said at {far}",
        "known, rise in %",
    )  # fmt: skip
    return Table(columns=columns, rows=rows)


def settings(trials: Mapping[str, Any]) -> Table:
    """A table with the loss of each setting."""
    rows = [
        (READERS[name].title, ", ".join(f"{k} {v:g}" for k, v in setting.items()), loss)
        for name, tried in trials.items()
        for setting, loss in tried
    ]
    return Table(columns=("reader", "setting", "loss"), rows=rows)


def answer(config: Any, found: Runs) -> str:
    """How many readers know more than the control, just after a document and long after."""
    if not found:
        return NOTHING
    if CONTROL not in found or len(found) == 1:
        return "Open: the control or every reader beside it is to be run."
    far = max(config.distances)
    near, later = (
        [READERS[name].title for name in grouped(above(found, distance, CONTROL))[0]]
        for distance in (0, far)
    )
    names = f" ({listed(later)})" if 0 < len(later) < 3 else ""
    return (
        f"Just after a document {len(near)} of {len(above(found, 0, CONTROL))} readers know "
        f"significantly more than one that read nothing, {far} documents later "
        f"{len(later) or 'none'}{names}."
    )


def gaps(found: Runs, far: int) -> Table:
    """A row per reader: its accuracy and the gap to the control, just after and later."""
    columns = ["reader"]
    told = {name: [READERS[name].title] for name in found}
    for distance, when in ((0, "just after"), (far, f"{far} documents later")):
        columns += [when, f"above the control, {when}"]
        tests = differences(above(found, distance, CONTROL))
        for name, runs in found.items():
            told[name] += [str(over(runs, distance, RIGHT)), tests.get(name, "-")]
    return Table(columns=columns, rows=list(told.values()))


def compared(found: Runs, far: int) -> Table:
    """A row per reader: its gaps to the control, to full fine-tuning and to strangers."""
    columns: dict[str, dict[str, str]] = {}
    if CONTROL in found:
        for distance, when in ((0, "just after"), (far, f"{far} documents later")):
            tests = above(found, distance, CONTROL, MARGIN)
            columns[f"margin above the control, {when}"] = differences(tests)
    if FULL in found:
        levels = {n: runs for n, runs in found.items() if n == FULL or n.startswith("levels")}
        title = f"accuracy above full fine-tuning, {far} documents later"
        columns[title] = differences(above(levels, far, FULL))
    columns["accuracy above strangers"] = differences(bound(found))
    rows = [
        (READERS[name].title, *(told.get(name, "-") for told in columns.values()))
        for name in found
        if name != CONTROL
    ]
    return Table(columns=("reader", *columns), rows=rows)


def about(config: Any) -> str:
    """The description of the method."""
    last = config.targets + max(config.distances)
    times = "once" if config.passes == 1 else f"{config.passes} times, one after the other,"
    return (
        f"{config.model} (SmolLM2-135M, Apache-2.0) reads {last} documents of about 110 tokens, "
        "each about a made-up person (nestling/tasks/facts.py). Every document tells six facts. "
        f"They are asked for in other words, with {CHOICES} answers to choose from by likelihood "
        "and nothing of the document in the context. The first "
        f"{config.targets} documents are asked about just after each, and again after further "
        f"documents ({', '.join(map(str, config.distances))} of them).\n\n"
        f"Readers that write weights read a document {times} before the next, and none comes "
        f"back. The fastest weights are written every {config.segment} tokens, levels every 1, 4 "
        "and 16 segments. Levels hold MLPs alone, and stay within a tenth of their length of the "
        "base, unless they are said to be of whole layers; the other readers have no such bound. "
        "Fine-tuning, and levels of whole layers, also write a shorter segment at a document's "
        "end; in the other levels it waits for the next document, so that just after a document "
        "its end is not yet learned. Rehearsal reads a stored segment beside every new one, twice "
        "as much as the others; it and elastic weight consolidation begin with "
        f"{config.known} documents of Python. Each reader with settings tries three, on other "
        "documents.\n\n"
        "Intervals are 95 %, over target documents and seeds; differences are paired by document. "
        "The accuracy over six questions takes few values, so Student's t is rough for it; the "
        "margin is the safer of the two."
    )
