"""The report of the study of messy data: who has a lower loss than the usual optimizers."""

from collections.abc import Mapping, Sequence
from typing import Any

from nestling.report import Table
from nestling_lab.studies.answers import ALIKE, NOTHING, listed
from nestling_lab.studies.optimizers.entrants import ENTRANTS
from nestling_lab.studies.optimizers.tuned import WORDS, against_each

NEW = ("delta-scalar", "delta-row", "delta-matrix", "deep", "delta-gd", "m3")
OLD = ("momentum", "adamw", "muon")
TALLIED = (
    "On every mess a new optimizer is compared with momentum, AdamW and Muon: with how many of the "
    "three its loss is significantly lower, and with how many higher; n.s.: with none."
)
Verdicts = Mapping[str, Mapping[str, Mapping[str, Any]]]  # by mess, new and old optimizer


def tally(found: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """How many comparisons have a significantly lower and a higher loss, of those that tell."""
    words = [WORDS[one["verdict"]] for one in found if one["verdict"]]
    return {word: words.count(word) for word in ("lower", "higher", ALIKE)}


def tally_table(verdicts: Verdicts) -> Table:
    """A row per new optimizer, with its comparisons on every mess and on all."""

    def told(found: Sequence[Mapping[str, Any]]) -> str:
        counts = tally(found)
        said = ", ".join(f"{n} {word}" for word, n in counts.items() if n and word != ALIKE)
        return said or (ALIKE if counts[ALIKE] else "-")

    rows = []
    for new in NEW:
        each = [list(found.get(new, {}).values()) for found in verdicts.values()]
        if any(each):
            rows.append((ENTRANTS[new].title, *map(told, each), told(sum(each, []))))
    return Table(columns=("optimizer", *verdicts, "all"), rows=rows)


def answer(verdicts: Verdicts) -> str:
    """How often the best new optimizer has a lower and a higher loss, over all messes."""
    found = {
        new: tally([one for each in verdicts.values() for one in each.get(new, {}).values()])
        for new in NEW
    }
    found = {new: counts for new, counts in found.items() if sum(counts.values())}
    if not found:
        return NOTHING
    best = max(found, key=lambda new: found[new]["lower"] - found[new]["higher"])
    counts = found[best]
    return (
        f"{'In part' if counts['lower'] else 'No'}: of {sum(counts.values())} comparisons with "
        f"{listed(ENTRANTS[o].title for o in OLD)}, {ENTRANTS[best].title}, the best of "
        f"{len(found)} new ones, has a significantly lower loss in {counts['lower']} and a higher "
        f"one in {counts['higher']}."
    )


def compare(found: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """How each new optimizer compares with each old one."""
    every = against_each(found, OLD, "test_loss")
    return {new: every[new] for new in NEW if new in every}
