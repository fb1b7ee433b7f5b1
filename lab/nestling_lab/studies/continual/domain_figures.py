"""The figures of the domain studies, from the matrices of all runs."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from nestling.core.statistics import Interval, Paired, interval, paired
from nestling_lab.studies.continual.contenders import EVERY, NONE, Setting
from nestling_lab.studies.continual.journey import Matrix

GATE_TITLES = {NONE: "", "base": ", gated with the base", "levels": ", gated over levels"}


class Journeys(NamedTuple):
    """A method asked through a gate, with the setting chosen for that gate."""

    contender: str
    gate: str
    setting: Setting
    matrices: Mapping[int, Matrix]  # by seed

    @property
    def title(self) -> str:
        """The method and gate in words."""
        return EVERY[self.contender].title + GATE_TITLES[self.gate]

    @property
    def key(self) -> str:
        """The name in the metrics."""
        return self.contender if self.gate == NONE else f"{self.contender}, gate {self.gate}"

    @property
    def finals(self) -> dict[int, float]:
        """The final average over all domains, by seed."""
        return {seed: summary(matrix)["final"] for seed, matrix in self.matrices.items()}

    @property
    def final(self) -> Interval:
        """The final average over all domains."""
        return interval(list(self.finals.values()))

    @property
    def old_rise(self) -> Interval:
        """The rise of the old domain's loss, in percent."""
        return interval([summary(matrix)["old_rise"] for matrix in self.matrices.values()])


def summary(matrix: Matrix) -> dict[str, float]:
    """The figures of one run; the page of the study explains them."""
    last = len(matrix) - 1
    new = range(1, last + 1)
    mean = {
        "gain": [matrix[i - 1][i] - matrix[i][i] for i in new],
        "backward": [matrix[last][i] - matrix[i][i] for i in range(1, last)],
        "forward": [matrix[0][i] - matrix[i - 1][i] for i in range(2, last + 1)],
    }
    return {
        "final": sum(matrix[last]) / len(matrix[last]),
        "old_rise": 100 * (matrix[last][0] / matrix[0][0] - 1),
        **{key: sum(values) / len(values) if values else 0.0 for key, values in mean.items()},
    }


def figures(matrices: Sequence[Matrix], full: Sequence[Matrix] | None) -> dict[str, Any]:
    """``summary`` over runs, and the share of full fine-tuning's gain for each domain."""
    parts = [summary(matrix) for matrix in matrices]
    found: dict[str, Any] = {key: interval([part[key] for part in parts]) for key in parts[0]}
    gains = None if full is None else gained(full)
    shares = None if gains is None else zip(gained(matrices), gains, strict=True)
    return found | {"shares": shares and [own / whole for own, whole in shares]}


def gained(matrices: Sequence[Matrix]) -> list[float]:
    """The mean drop of each new domain's loss, from the first stage to its own."""
    return [
        sum(matrix[0][i] - matrix[i][i] for matrix in matrices) / len(matrices)
        for i in range(1, len(matrices[0]))
    ]


def both_reached(own: Mapping[str, Any]) -> str:
    """Whether both targets are reached, as text."""
    old, shares = own["old_rise"], own["shares"]
    return "yes" if not old.diverged and old.mean < 1 and all(s >= 0.5 for s in shares) else "no"


def less(found: Sequence[Journeys], other: Journeys) -> dict[str, Paired]:
    """The final loss of every method but the frozen one less that of another, over common seeds."""
    return {
        one.title: less_than(one, other)
        for one in found
        if one.contender != "frozen" and one is not other
    }


def less_than(one: Journeys, other: Journeys) -> Paired:
    """The final loss of one method less that of another, over common seeds."""
    seeds = sorted(one.finals.keys() & other.finals.keys())
    return paired([one.finals[s] for s in seeds], [other.finals[s] for s in seeds])
