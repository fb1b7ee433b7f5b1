"""The wording of comparisons; equal figures are called equal."""

import copy
import math
import random
import statistics
from pathlib import Path

import pytest

from nestling.core.result import Result
from nestling.core.statistics import paired
from nestling_lab.studies import Store, load_study
from nestling_lab.studies.answers import beside, grouped

RESULTS = Path(__file__).resolve().parents[3] / "results"


def shifted(by, noise, seeds=5):
    """Pairs whose differences have exactly this mean, with standard deviation ``noise``."""
    rng = random.Random(0)
    own, draws = ([rng.gauss(0, 1) for _ in range(seeds)] for _ in range(2))
    mean, spread = statistics.mean(draws), statistics.stdev(draws)
    return paired(
        [x + by + noise * (d - mean) / spread for x, d in zip(own, draws, strict=True)], own
    )


def test_ranks_better_worse_and_tied():
    tests = {"a": shifted(1, 0.01), "b": shifted(-1, 0.01), "c": shifted(0, 1)}
    assert grouped(tests) == (["a"], ["b"], ["c"])
    assert beside(tests) == (
        "significantly lower than that of a, significantly higher than that of b, "
        "but not significantly different from that of c"
    )


def test_one_seed_or_a_diverged_run_is_inconclusive():
    assert grouped({"one": paired([1.0], [9.0])})[2] == ["one"]
    assert grouped({"lost": paired([1.0, math.nan], [9.0, 9.0])})[2] == ["lost"]
    assert beside({}) == "not compared yet"


def test_multiple_comparisons_are_corrected():
    """Holm: a test significant alone is not significant among twenty others."""
    near = shifted(0.4, 0.3)
    assert near.p_t is not None and 0.003 < near.p_t < 0.05
    assert "near" not in grouped({"near": near})[2]
    others = {str(n): shifted(0, 1) for n in range(20)}
    assert "near" in grouped({"near": near, **others})[2]


@pytest.mark.parametrize(
    ("name", "same"),
    [
        ("recall-smoke", {"accuracy": 0.5}),
        ("demo-gap", {"val_loss": 5.0}),
        ("figure-lm", {"val_loss": 5.0}),
        ("head-level", {"val_loss": 5.0}),
    ],
)
def test_equal_arms_are_tied(name, same):
    """The committed results, with the compared figure equal in all runs."""
    study = load_study(name)
    done = {}
    for cell, result in Store(RESULTS, study).finished().items():
        metrics = copy.deepcopy(result.metrics) | same
        done[cell] = Result(**{**vars(result), "metrics": metrics})
    answer = study.find(done).answer
    assert answer != study.find({}).answer
    assert "not significantly different" in answer or "too few for a test" in answer
