"""Comparing two Results."""

import pytest

from nestling.core.error import UserError
from nestling.core.result import Result
from nestling_lab.bench.compare import compare, differences


def result(metrics, name="bench train", **config):
    return Result(name=name, config=config, metrics=metrics)


def test_shared_metrics_are_compared():
    first = result({"a": {"speed": 2, "only": 1}, "name": "x"}, rounds=5)
    second = result({"a": {"speed": 3.0}, "more": 4}, rounds=6)
    assert compare(first, second) == [("a.speed", 2, 3.0)]
    assert differences(first, second) == ["config rounds: 5 | 6"]


def test_incomparable_results_are_refused():
    first = result({"a": 1})
    with pytest.raises(UserError, match="same benchmark"):
        compare(first, result({"a": 1}, name="bench ops"))
    with pytest.raises(UserError, match="no figure"):
        compare(first, result({"a": 1}), only="b*")
