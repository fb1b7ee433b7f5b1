"""Figures over runs of which some may have diverged; diverged runs are always counted."""

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from nestling.core.statistics import Interval, interval

Metrics = Mapping[str, Any]  # of one run; ``diverged`` says whether it has no figures


def over(runs: Iterable[Metrics], figure: Callable[[Metrics], float]) -> Interval:
    """The interval of a figure over runs; diverged runs are counted separately.

    >>> print(over([{"diverged": False, "loss": 2.0}, {"diverged": True}], lambda run: run["loss"]))
    2 (1 of 2 diverged)
    """
    return interval([math.nan if run["diverged"] else figure(run) for run in runs])


def titled(name: str, runs: Collection[Metrics]) -> str:
    """The name of a mean curve, with the number of diverged runs.

    >>> titled("hope", [{"diverged": False}, {"diverged": True}]), titled("hope", [])
    ('hope (1 of 2 diverged)', 'hope')
    """
    lost = sum(run["diverged"] for run in runs)
    return f"{name} ({lost} of {len(runs)} diverged)" if lost else name


def sound(runs: Mapping[int, Any]) -> dict[int, Any]:
    """The Results of runs that did not diverge, by seed."""
    return {seed: run for seed, run in runs.items() if not run.metrics["diverged"]}
