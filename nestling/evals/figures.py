"""Scores of answers with confidence intervals and secondary metrics."""

import math
import random
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from nestling.core.statistics import interval, wilson
from nestling.tasks import TextTask, TokenTask

DRAWS = 200  # bootstrap samples for the interval of a pooled score


def figures(scores: Sequence[float], chance: float) -> dict[str, Any]:
    """The mean with its 95 % interval: Wilson's if scores are 0 or 1, otherwise Student's t.

    Equal scores get Wilson's too: with the same mean, no scores vary more than zeros and ones.
    """
    found = interval(scores)
    low, high = found.low, found.high
    shares = all(0 <= score <= 1 for score in scores)
    if shares and (found.half == 0 or all(score in (0.0, 1.0) for score in scores)):
        low, high = wilson(sum(scores), len(scores))
    elif shares and len(scores) > 1:
        low, high = max(0.0, low), min(1.0, high)
    ends = {"low_95": low, "high_95": high}
    return {
        "score": found.mean,
        "count": len(scores),
        **{name: None if math.isnan(end) else end for name, end in ends.items()},
        "chance": chance,
    }


def judged_rows(task: TokenTask, answers: Tensor, labels: Tensor) -> dict[str, Any]:
    """Metrics of answers to rows of tokens, [N, T] each."""
    scores = task.scores(answers, labels)
    found = figures(scores[~scores.isnan()].tolist(), task.chance)
    if not task.pooled:
        return found

    def score(places: Sequence[int]) -> float:
        return task.score(answers[places], labels[places])

    return found | pooled(score, [len(answers)]) | task.beside(answers, labels)


def judged_texts(task: TextTask, answers: Sequence[Any], asked: Sequence[Any]) -> dict[str, Any]:
    """Metrics of answers to text questions."""
    found = figures(task.scores(answers, asked), task.chance)
    if not task.pooled:
        return found

    def score(places: Sequence[int]) -> float:
        return task.score([answers[i] for i in places], [asked[i] for i in places])

    return found | pooled(score, [len(answers)]) | task.beside(answers, asked)


def pooled(score: Callable[[Sequence[int]], float], sizes: Sequence[int]) -> dict[str, Any]:
    """A score over many examples together, with a bootstrap interval (the middle 95 %).

    ``score`` takes the indices of examples, which are resampled with replacement within consecutive
    groups of ``sizes``. A single example has no interval; constant scores, such as all correct, get
    Wilson's.
    """
    rng, begin, groups = random.Random(0), 0, []
    for size in sizes:
        groups.append(range(begin, begin + size))
        begin += size
    found = {"score": score(range(begin)), "low_95": None, "high_95": None}
    if begin < 2:
        return found
    drawn = sorted(
        score([place for group in groups for place in rng.choices(group, k=len(group))])
        for _ in range(DRAWS)
    )
    edge = round(0.025 * DRAWS)
    low, high = drawn[edge], drawn[-1 - edge]
    if low == high and 0 <= low <= 1:
        low, high = wilson(low * begin, begin)
    return found | {"low_95": low, "high_95": high}
