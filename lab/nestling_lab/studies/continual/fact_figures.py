"""The figures of the study of facts: accuracies and margins by document, and gaps between them."""

import math
from collections.abc import Mapping, Sequence

from nestling.core.result import Result
from nestling.core.statistics import Interval, Paired, interval, paired

RIGHT, MARGIN, SAID = 0, 1, 3  # places in a reply
CONTROL, BOUND, FULL = "frozen", "document", "fine-tuning"
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


def above(found: Runs, distance: int, base: str, place: int = RIGHT) -> dict[str, Paired]:
    """The gap of each reader to a base reader, paired by document."""
    other = by_document(found[base], distance, place)
    names = [name for name in found if name not in (base, CONTROL, BOUND)]
    return {name: _gap(by_document(found[name], distance, place), other) for name in names}


def bound(found: Runs) -> dict[str, Paired]:
    """The gap of each reader to its own answers about strangers, just after each document."""
    tests = {}
    for name, runs in found.items():
        other = {
            (int(run.seed or 0), number): _mean(one, RIGHT)
            for run in runs
            for number, one in enumerate(run.metrics["strangers"])
        }
        if name != CONTROL:
            tests[name] = _gap(by_document(runs, 0, RIGHT), other)
    return tests


def _gap(one: Mapping[Key, float], other: Mapping[Key, float]) -> Paired:
    both = sorted(one.keys() & other.keys())
    return paired([one[k] for k in both], [other[k] for k in both], larger_is_better=True)
