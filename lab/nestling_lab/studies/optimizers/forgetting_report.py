"""The report of the study of forgetting: what the optimizer's state adds, and all figures."""

import math
from collections.abc import Mapping
from typing import Any

from nestling.core.statistics import Interval
from nestling.report import Table
from nestling_lab.studies.answers import ALIKE, NOTHING, signed
from nestling_lab.studies.optimizers.entrants import ENTRANTS
from nestling_lab.studies.optimizers.tuned import interval_of, interval_text, over_seeds
from nestling_lab.studies.tuned import rate_text

SHOWN = (
    "By the state: forgetting less that with a fresh optimizer at every switch; significantly more "
    "or less, or not significant (n.s.), by the 95 % interval over seeds."
)
FIGURES = {
    "loss over all tasks at the end": "final_loss",
    "forgetting": "forgetting",
    "pull of the last task": "pull",
    "steps to recover": "recovery",
}
Effects = Mapping[str, Mapping[str, Any]]  # ``effect_of``, by optimizer


def effect_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """The runs with carried state, and what that adds to forgetting by seed; None if diverged."""
    pairs = zip(
        over_seeds(record["carried"], "forgetting"),
        over_seeds(record["fresh"], "forgetting"),
        strict=True,
    )
    own = [None if a is None or b is None else a - b for a, b in pairs]
    return {"carried": record["carried"], "own_memory": own}


def carried_table(found: Effects) -> Table:
    """A row per optimizer with its rate and figures."""
    rows = []
    for name, one in found.items():
        runs = one["carried"]
        rate = rate_text(runs["rate"], runs["rate_at_edge_of_grid"])
        told = (interval_text(over_seeds(runs, figure)) for figure in FIGURES.values())
        rows.append((ENTRANTS[name].title, rate, *told))
    return Table(columns=("optimizer", "rate", *FIGURES), rows=rows)


def effect_table(found: Mapping[float, Effects]) -> Table:
    """A row per optimizer: forgetting, and what the state adds to it, for each cosine."""
    rows = {name: [ENTRANTS[name].title] for own in found.values() for name in own}
    for own in found.values():
        for name, row in rows.items():
            if name in own:
                runs, effect = own[name]["carried"], interval_of(own[name]["own_memory"])
                row += [interval_text(over_seeds(runs, "forgetting")), told(effect)]
            else:
                row += ["-", "-"]
    columns = [f"{what}, cosine {o:g}" for o in found for what in ("forgetting", "by the state")]
    return Table(columns=("optimizer", *columns), rows=list(rows.values()))


def told(effect: Interval) -> str:
    """An effect on forgetting with its sign and significance.

    >>> told(Interval(0.25, 0.1, 5)), told(Interval(-0.1, 0.2, 5)), told(Interval(0.0, 0.0, 5))
    ('+0.25 +/- 0.1 (more)', '-0.1 +/- 0.2 (n.s.)', '0')
    """
    if math.isnan(effect.half) or not (effect.mean or effect.half):
        return str(effect).removesuffix(" +/- 0")
    word = "more" if effect.low > 0 else "less" if effect.high < 0 else ALIKE
    return f"{signed(effect)} ({word})"


def answer(found: Mapping[float, Effects]) -> str:
    """The largest significant effects of the state on forgetting, in both directions."""
    effects = {
        f"{ENTRANTS[name].title}, cosine {overlap:g}": interval_of(one["own_memory"])
        for overlap, own in found.items()
        for name, one in own.items()
    }
    if not effects:
        return NOTHING
    more = {name: own.mean for name, own in effects.items() if own.low > 0}
    less = {name: -own.mean for name, own in effects.items() if own.high < 0}
    parts = [
        f"{verb} at most {max(group.values()):.2g} ({max(group, key=group.__getitem__)})"
        for verb, group in (("adds", more), ("takes away", less))
        if group
    ]
    if not parts:
        return "The optimizer's state has no significant effect on forgetting."
    return f"The optimizer's state {' to forgetting and '.join(parts)}."
