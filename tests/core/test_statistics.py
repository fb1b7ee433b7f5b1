"""Intervals and tests for few values."""

import json
import math

import pytest
import torch

from nestling.core.statistics import (
    gap,
    holm,
    interval,
    interval_text,
    paired,
    t95,
    t_probability,
    wilson,
)

NOT_FINITE = (math.inf, -math.inf, math.nan)


def test_interval_of_three_values():
    found = interval([10.0, 12.0, 14.0])
    assert found.mean == 12.0
    assert found.half == pytest.approx(4.30265273 * 2 / math.sqrt(3), rel=1e-6)
    assert found.record() == {"mean": 12.0, "half_width_95": found.half, "count": 3}


@pytest.mark.parametrize("count", [2, 3, 5, 40])
def test_interval_covers_the_mean_95_percent_of_the_time(count):
    draws = torch.randn(4000, count, generator=torch.Generator().manual_seed(count)).double()
    found = [interval(row) for row in draws.tolist()]
    covered = sum(one.low <= 0 <= one.high for one in found) / len(found)
    assert 0.935 < covered < 0.98


@pytest.mark.parametrize("value", [0.35, 1e-9, -1e12, 0.0])
def test_rounding_differences_give_zero_spread(value):
    values = [value, value * (1 + 2e-16), value]
    assert interval(values).half == 0 and str(interval(values)).endswith("+/- 0")
    found = paired([value + value, value], [2 * value * (1 + 2e-16), value])
    assert found.difference == interval([0.0, 0.0]) and found.p_t == 1
    assert interval([1.0, 1.0 + 1e-9]).half > 0


def test_one_value_has_no_interval_and_no_value_no_mean():
    assert math.isnan(interval([3.0]).half) and interval([3.0]).record()["half_width_95"] is None
    assert math.isnan(interval([]).mean)


@pytest.mark.parametrize(
    ("freedom", "t"), [(1, 12.706), (2, 4.303), (3, 3.182), (10, 2.228), (29, 2.045), (120, 1.980)]
)
def test_quantile_matches_published_tables(freedom, t):
    assert t95(freedom) == pytest.approx(t, abs=6e-4)


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 7, 12])
def test_probability_integrates_the_density(freedom):
    def density(x):
        root = math.gamma((freedom + 1) / 2) / math.gamma(freedom / 2)
        return root / math.sqrt(freedom * math.pi) * (1 + x * x / freedom) ** (-(freedom + 1) / 2)

    for t in (0.3, 1.7, 4.0):
        xs = torch.linspace(0, t, 20001, dtype=torch.float64)
        inside = 2 * float(torch.trapezoid(torch.tensor([density(x) for x in xs.tolist()]), xs))
        assert t_probability(t, freedom) == pytest.approx(1 - inside, abs=1e-6)


def test_paired_test_has_five_percent_false_positives():
    draws = torch.randn(2000, 2, 4, generator=torch.Generator().manual_seed(1)).double().tolist()
    found = [paired(one, other) for one, other in draws]
    wrong = sum(one.p_t < 0.05 for one in found) / len(found)
    assert 0.035 < wrong < 0.065
    # the exact test with four pairs has p-values 2/16, 4/16 ...
    assert min(one.p_sign for one in found) == 0.125
    small = sum(one.p_sign <= 0.125 for one in found) / len(found)
    assert 0.1 < small < 0.15


def test_pairs_with_constant_and_zero_difference():
    assert paired([1.0, 2.0], [0.0, 1.0]).p_t == 0.0 and paired([1.0, 2.0], [1.0, 2.0]).p_t == 1.0
    assert paired([1.0], [0.0]).p_t is None and str(paired([1.0], [0.0])) == "1"
    with pytest.raises(ValueError, match="do not form pairs"):
        paired([1.0], [])


def test_wilson_coverage_and_holm_ordering():
    for p in (0.02, 0.5, 0.97):
        draws = torch.rand(3000, 40, generator=torch.Generator().manual_seed(2)) < p
        ends = [wilson(int(row.sum()), 40) for row in draws]
        assert 0.91 < sum(low <= p <= high for low, high in ends) / len(ends) <= 1
    assert holm([0.5, 0.9]) == [1.0, 1.0] and holm([]) == []


@pytest.mark.parametrize("bad", NOT_FINITE)
def test_diverged_values_are_counted_but_not_averaged(bad):
    found = interval([1.0, bad, 3.0])
    assert found._replace(diverged=0) == interval([1.0, 3.0])
    assert str(found) == "2 +/- 13 (1 of 3 diverged)" == interval_text(found.record())
    assert found.record()["diverged"] == 1
    alone = interval([bad])
    assert str(alone) == "diverged" == interval_text(alone.record())
    json.dumps(alone.record(), allow_nan=False)
    assert interval([1e9]).rank() < found.rank() < alone.rank()
    assert found.rank(larger_is_better=True) > interval([-1e9]).rank(larger_is_better=True)


@pytest.mark.parametrize("bad", NOT_FINITE)
def test_diverged_run_ranks_last(bad):
    assert gap(bad, 1.0) == math.inf and gap(1.0, bad) == -math.inf
    assert gap(bad, 1.0, -math.inf) == -math.inf and math.isnan(gap(bad, math.inf))
    # the mean of the finite pairs alone would favour ``one``
    one, other = [1.0, bad, bad], [2.0, 2.0, 2.0]
    found, turned = paired(one, other), paired(other, one)
    assert (found.worse, found.better) == (2, 0) == (turned.better, turned.worse)
    assert found.p_t is None and found.p_sign == turned.p_sign
    assert found.difference.mean == -1 and str(found) == "-1 (diverged in 2 of 3)"
    assert str(turned) == "1 (the other diverged in 2 of 3)"
    assert found.record() | {"worse": 2, "better": 0, "diverged": 2} == found.record()
    # of eight sign flips, the two with both diverged pairs on one side and the third on the other,
    # as observed, and the two with all on the same side
    assert found.p_sign == 4 / 8
    assert paired([bad] * 6, [1.0] * 6).p_sign == 2 / 64
    scores = paired([0.0, bad], [0.5, 0.5], larger_is_better=True)
    assert (scores.worse, scores.better) == (1, 0)


def test_pairs_diverged_in_both_are_ignored():
    found = paired([math.inf, math.nan, 1.0, 2.0], [math.nan, math.inf, 0.5, 1.0])
    assert (found.worse, found.better, found.p_t) == (0, 0, None)
    assert found.p_sign == paired([1.0, 2.0], [0.5, 1.0]).p_sign == 0.5
    assert str(found) == "0.75 +/- 3.2 (both diverged in 2 of 4)"
    assert paired([math.inf] * 2, [math.inf] * 2).p_sign == 1


def test_invalid_probabilities_are_refused():
    assert math.isnan(t_probability(math.nan, 3))
    for p in (math.nan, -0.1, 1.1):
        with pytest.raises(ValueError, match="not all probabilities"):
            holm([0.01, p])
    for right in (math.nan, -1, 5):
        with pytest.raises(ValueError, match="not a share"):
            wilson(right, 4)
