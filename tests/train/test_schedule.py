"""Learning-rate schedules."""

import pytest

from nestling.train.schedule import rate


@pytest.mark.parametrize("shape", ["cosine", "wsd", "constant"])
@pytest.mark.parametrize("steps", [1, 2, 10, 137])
def test_rises_to_one_and_stays_within_bounds(shape, steps):
    rates = [rate(step, steps=steps, warmup=0.3, shape=shape) for step in range(steps)]
    rising = round(0.3 * steps)
    assert all(a < b for a, b in zip(rates[:rising], rates[1:rising], strict=False))
    assert all(0 < value <= 1 for value in rates)
    if steps > 2:
        assert max(rates) == 1.0


@pytest.mark.parametrize("shape", ["cosine", "wsd"])
def test_ends_at_the_final_rate_and_never_rises_after_the_warm_up(shape):
    rates = [rate(step, steps=100, warmup=0.1, shape=shape, final=0.05) for step in range(100)]
    assert rates[-1] == pytest.approx(0.05)
    assert all(a >= b for a, b in zip(rates[10:], rates[11:], strict=False))


def test_wsd_is_constant_until_the_decay():
    rates = [rate(step, steps=100, warmup=0.1, shape="wsd", decay=0.2) for step in range(100)]
    assert set(rates[10:80]) == {1.0} and rates[80] < 1.0
