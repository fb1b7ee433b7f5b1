"""The report of the study ``many-documents``: answers by distance, strangers, and known text."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nestling.continual.study.examine import holds
from nestling.continual.study.study import HELD
from nestling.core.statistics import interval, wilson
from nestling.report import Section, Table
from nestling_lab.studies.answers import NOTHING
from nestling_lab.studies.study import Finding

if TYPE_CHECKING:
    from nestling_lab.studies.continual.many import ManyDocuments

Run = Mapping[str, Any]


def report(config: "ManyDocuments.Config", runs: Sequence[Run]) -> Finding:
    """What is still answered, by the number of documents studied since."""
    by_distance = {distance: _right(runs, distance) for distance in config.distances}
    strangers = _strangers(runs)
    rise = {name: [_rises(run, name)[-1] for run in runs] for name in ("own", "known")}
    metrics = {
        "right": {str(distance): sum(right) for distance, right in by_distance.items()},
        "asked": {str(distance): len(right) for distance, right in by_distance.items()},
        "strangers_quiet": sum(strangers),
        "strangers_asked": len(strangers),
        "rise": rise,
    }
    sections = [Section("Method", _about(config))]
    if runs:
        sections += [
            Section("Known text, document by document", _cost(runs), [_course(config, runs)]),
            Section("Every reply", tables=[_replies(runs)]),
        ]
    shown = Section("In short", tables=[_outcome(by_distance, strangers)] if runs else [])
    return Finding(metrics, sections, _answer(by_distance, rise) if runs else NOTHING, shown)


def _right(runs: Sequence[Run], distance: int) -> list[bool]:
    each = [one for run in runs for one in run["replies"][str(distance)]]
    return [right for replies in each for _, _, right in replies]


def _strangers(runs: Sequence[Run]) -> list[bool]:
    """Whether the reply about somebody in no document is without the value of the document."""
    each = [one for run in runs for one in run["strangers"]]
    return [not holds(said, value) for replies in each for value, said in replies]


def _rises(run: Run, name: str) -> list[float]:
    """The loss of known text after each document, relative to the beginning."""
    losses = run[name]
    if name == "own":
        return [after / losses[0][0] - 1 for _, after in losses]
    return [loss / losses[0] - 1 for loss in losses[1:]]


def _outcome(by_distance: Mapping[int, list[bool]], strangers: list[bool]) -> Table:
    rows = [
        (f"{distance} documents later" if distance else "just after", *_share(right))
        for distance, right in by_distance.items()
        if right
    ]
    rows.append(("about somebody in no document: no value of the document", *_share(strangers)))
    return Table(columns=("asked", "right", "of", "share, 95 % interval"), rows=rows)


def _share(right: list[bool]) -> tuple[int, int, str]:
    low, high = wilson(sum(right), len(right))
    return sum(right), len(right), f"{sum(right) / len(right):.2f} ({low:.2f} to {high:.2f})"


def _course(config: "ManyDocuments.Config", runs: Sequence[Run]) -> Table:
    count = config.targets + max(config.distances)
    after = sorted({1, 2, 4, 8, 16, 24, count} & set(range(1, count + 1)))
    rows = [
        (number, *(_over([_rises(run, name)[number - 1] for run in runs]) for name in RISES))
        for number in after
    ]
    return Table(columns=("documents", *RISES.values()), rows=rows)


RISES = {"own": "loss of text that the base wrote", "known": "loss of Python's documentation"}


def _over(rises: Sequence[float]) -> str:
    found = interval([100 * rise for rise in rises])
    return f"{found} %"


def _cost(runs: Sequence[Run]) -> str:
    mean = interval([sum(run["seconds"]) / len(run["seconds"]) for run in runs])
    return f"A document takes {mean} CPU seconds to learn."


def _replies(runs: Sequence[Run]) -> Table:
    rows = [
        (number, distance, value, "yes" if right else "no", " ".join(said.split()))
        for number, run in enumerate(runs)
        for distance, documents in run["replies"].items()
        for replies in documents
        for value, said, right in replies
    ]
    return Table(columns=("memory", "documents since", "value", "right", "reply"), rows=rows)


def _about(config: "ManyDocuments.Config") -> str:
    return (
        f"{config.model} studies {config.targets + max(config.distances)} documents one after "
        "another with the defaults of `nestling learn`, all into one memory. Each is about a "
        "made-up person and has six facts (`nestling/tasks/facts.py`). Of the first "
        f"{config.targets} every fact is asked for in other words, in chat, with an empty context, "
        f"after {', '.join(map(str, config.distances))} further documents; a reply is right if it "
        "holds the value. Just after a document the same is asked about a person in no document. "
        f"Known text: {HELD} passages that the base wrote itself, which are in no lesson, and the "
        f"first {config.probe:,} characters of held-out documentation of Python. Intervals of "
        "shares are Wilson's, over questions, which share documents; the others are Student's, "
        "over memories."
    )


def _answer(by_distance: Mapping[int, list[bool]], rise: Mapping[str, list[float]]) -> str:
    first, last = min(by_distance), max(by_distance)
    shares = [sum(by_distance[d]) / max(1, len(by_distance[d])) for d in (first, last)]
    mean = 100 * sum(rise["own"]) / len(rise["own"])
    verdict = "Yes" if shares[1] >= 0.65 and mean <= 2 else "Not as well as it should be"
    return (
        f"{verdict}: of the questions about a document {shares[0]:.0%} are answered just after it "
        f"and {shares[1]:.0%} with {last} more documents studied; the loss of text that the base "
        f"wrote has then changed by {mean:+.1f} %."
    )
