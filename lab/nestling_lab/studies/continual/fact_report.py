"""The report of the study of facts: tables, figures and sentences from the replies."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from nestling.core.result import Result
from nestling.core.statistics import Interval, holm, interval, paired
from nestling.report import Section, Table
from nestling.report.figure import Curve, lines
from nestling.tasks.facts import CHOICES
from nestling_lab.studies.answers import LEVEL, NOTHING
from nestling_lab.studies.continual.fact_readers import READERS
from nestling_lab.studies.study import Finding

RIGHT, MARGIN, SAID = 0, 1, 3  # places in a reply
CONTROL, BOUND = "frozen", "document"
STORING = (BOUND, "in-context", "retrieval", "replay")
Runs = Mapping[str, Sequence[Result]]
Key = tuple[int, int]  # seed, target document


def by_document(runs: Sequence[Result], distance: int, place: int) -> dict[Key, float]:
    """The mean over the questions of each target document.

    Readers that read nothing have only one distance. NaN if the reader diverged.
    """
    found = {}
    for run in runs:
        replies = run.metrics["replies"]
        for number, one in enumerate(replies.get(str(distance), replies["0"])):
            found[int(run.seed or 0), number] = _mean(one, place)
    return found


def _mean(replies: Sequence[Sequence[float]], place: int) -> float:
    sound = all(math.isfinite(number) for reply in replies for number in reply)
    return sum(reply[place] for reply in replies) / len(replies) if sound else math.nan


def over(runs: Sequence[Result], distance: int, place: int) -> Interval:
    """The mean and interval over documents."""
    return interval(list(by_document(runs, distance, place).values()))


def strangers(runs: Sequence[Result]) -> Interval:
    """The accuracy on the same questions about people who occur in no document."""
    return interval([_mean(one, RIGHT) for run in runs for one in run.metrics["strangers"]])


def above(found: Runs, distance: int, base: str, place: int = RIGHT) -> dict[str, Any]:
    """The gap of each reader to a base reader, paired by document, with Holm-corrected p-values."""
    other = by_document(found[base], distance, place)
    names = [name for name in found if name not in (base, CONTROL, BOUND)]
    return _tested({name: (by_document(found[name], distance, place), other) for name in names})


def bound(found: Runs) -> dict[str, Any]:
    """The gap of each reader to its own answers about strangers, just after each document."""
    pairs = {}
    for name, runs in found.items():
        other = {
            (int(run.seed or 0), number): _mean(one, RIGHT)
            for run in runs
            for number, one in enumerate(run.metrics["strangers"])
        }
        pairs[name] = (by_document(runs, 0, RIGHT), other)
    return _tested({name: pair for name, pair in pairs.items() if name != CONTROL})


def _tested(pairs: Mapping[str, tuple[dict[Key, float], dict[Key, float]]]) -> dict[str, Any]:
    tests = {}
    for name, (one, other) in pairs.items():
        both = sorted(one.keys() & other.keys())
        values = [one[key] for key in both], [other[key] for key in both]
        tests[name] = paired(*values, larger_is_better=True)
    known = {name: p for name, test in tests.items() if (p := test.p_t) is not None}
    raised = dict(zip(known, holm(list(known.values())), strict=True))
    return {n: {"test": test, "p": raised.get(n)} for n, test in tests.items()}


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
            Section("What came out", " ".join(verdicts(config, found))),
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
            Section("Besides", BESIDES, tables=[besides(found, max(distances))]),
        ]
    if any(trials.values()):
        sections.append(Section("Settings", TRIED, tables=[settings(trials)]))
    return Finding(metrics, sections, answer(config, found))


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
    """Which readers know more than the control, just after a document and many documents later."""
    if not found:
        return NOTHING
    if CONTROL not in found or len(found) == 1:
        return "Nothing can be said yet: the control or every reader beside it is to be run."
    far, parts = max(config.distances), []
    for distance, when in ((0, "just after a document"), (far, f"{far} documents later")):
        tests = above(found, distance, CONTROL)
        sure = [
            READERS[name].title
            for name, one in tests.items()
            if one["p"] is not None and one["p"] < LEVEL and one["test"].difference.mean > 0
        ]
        parts.append(f"{when} {len(sure)} of {len(tests)} ({'; '.join(sure) or 'none'})")
    return (
        f"More is known than by a model that read nothing, {' and '.join(parts)}; the others are "
        "not told apart from it or know less."
    )


def verdicts(config: Any, found: Runs) -> list[str]:
    """Sentences that compare the readers, just after a document and many documents later."""
    far, said = max(config.distances), []
    for distance, when in ((0, "Just after the document"), (far, f"{far} documents later")):
        if CONTROL in found:
            for place, what in ((RIGHT, "accuracy"), (MARGIN, "margin")):
                tests = above(found, distance, CONTROL, place)
                said.append(f"{when}, {what} against the control: " + _gaps(tests))
    said.append("Asked about the name that was read, against a stranger's: " + _gaps(bound(found)))
    without = [n for n in found if n not in (*STORING, CONTROL)]
    if without:
        best = min(without, key=lambda n: over(found[n], far, RIGHT).rank(larger_is_better=True))
        said.append(
            f"Of those that store no text the best {far} documents later is "
            f"{READERS[best].title}, {over(found[best], far, RIGHT)}."
        )
    levels = [n for n in without if n.startswith("levels")]
    if levels and "fine-tuning" in found:
        tests = above({n: found[n] for n in (*levels, "fine-tuning")}, far, "fine-tuning")
        said.append(f"Levels {far} documents later, against full fine-tuning: " + _gaps(tests))
    if BOUND in found:
        said.append(f"With the document in context: {over(found[BOUND], 0, RIGHT)}.")
    return said


def _gaps(tests: Mapping[str, Any]) -> str:
    """Which readers are above, below, not significantly different at 5 %, and diverged."""
    wild = [name for name, t in tests.items() if t["test"].difference.diverged]

    def those(rule: Callable[[float, float | None], bool]) -> str:
        chosen = [
            f"{READERS[n].title} ({t['test'].difference.mean:+.2f})"
            for n, t in tests.items()
            if n not in wild and rule(t["test"].difference.mean, t["p"])
        ]
        return ", ".join(chosen) or "none"

    def sure(p: float | None) -> bool:
        return p is not None and p < 0.05

    diverged = ", ".join(f"{READERS[n].title} {tests[n]['test']}" for n in wild)
    return (
        f"above {those(lambda gap, p: sure(p) and gap > 0)}; "
        f"below {those(lambda gap, p: sure(p) and gap < 0)}; "
        f"not told apart {those(lambda gap, p: not sure(p))}"
        + (f"; with pairs that diverged: {diverged}." if diverged else ".")
    )


def about(config: Any) -> str:
    """The description of the method."""
    last = config.targets + max(config.distances)
    times = "once" if config.passes == 1 else f"{config.passes} times, one after the other,"
    return (
        f"{config.model} (SmolLM2-135M, Apache-2.0) reads {last} documents of about 110 tokens, "
        "each about a made-up person (nestling/tasks/facts.py). Every document tells six facts; "
        f"they are asked for in other words, {CHOICES} answers to choose from by likelihood, with "
        f"nothing of the document in the context. The first {config.targets} documents are asked "
        f"about just after each, and again after further documents ("
        f"{', '.join(map(str, config.distances))} of them). Whoever writes weights reads a "
        f"document {times} before the next, and none comes back; the fastest weights are written "
        f"every {config.segment} tokens, levels every 1, 4 and 16 segments. Levels hold MLPs alone "
        "and stay within a tenth of their length of the base, which nothing else is held to, "
        "unless they are said to be of whole layers. "
        "Fine-tuning, and levels of whole layers, write a shorter segment too at a document's end; "
        "in the other levels it waits for the next document, so that just "
        "after a document the end of it is not yet learned. Rehearsal reads a stored segment "
        "beside every new one, twice the reading of the others; it and elastic weight "
        f"consolidation begin with {config.known} documents of Python. Three settings for each, "
        "chosen on documents of their own. Intervals: 95 %, over target documents and seeds; gaps "
        "pair documents, their probabilities are raised for the number of readers (Holm). The "
        "accuracy over six questions takes few values, so that Student's t is rough for it; the "
        "margin is the safer of the two."
    )
