"""Intervals of few values."""

import math

import pytest
import torch

from nestling.studies.statistics import interval


def test_three_values_by_the_tables():
    found = interval([10.0, 12.0, 14.0])
    assert found.mean == 12.0
    assert found.half == pytest.approx(4.303 * 2 / math.sqrt(3), rel=1e-6)
    assert found.record() == {"mean": 12.0, "half_width_95": found.half, "count": 3}


@pytest.mark.parametrize("count", [2, 3, 5, 40])
def test_it_covers_the_mean_19_times_in_20(count):
    draws = torch.randn(4000, count, generator=torch.Generator().manual_seed(count)).double()
    found = [interval(row) for row in draws.tolist()]
    covered = sum(one.low <= 0 <= one.high for one in found) / len(found)
    assert 0.935 < covered < 0.98


def test_one_value_has_no_interval_and_none_no_mean():
    assert math.isnan(interval([3.0]).half) and interval([3.0]).record()["half_width_95"] is None
    assert math.isnan(interval([]).mean)
