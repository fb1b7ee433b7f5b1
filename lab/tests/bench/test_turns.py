"""Timing in turns: the order, and the statistics of the times."""

import pytest

from nestling_lab.bench.turns import Contestant, over, spread, take_turns


def test_rounds_rotate_the_order():
    calls = []
    entrants = [Contestant(name=n, work=lambda n=n: calls.append(n)) for n in "abc"]
    take_turns(entrants, rounds=3, quiet=True)
    assert "".join(calls) == "abc" + "cba" + "abc"
    assert all(len(entrant.seconds) == 3 for entrant in entrants)


def test_ratios_are_per_round():
    ours = Contestant(name="ours", work=int, seconds=[1.0, 10.0, 2.0])
    theirs = Contestant(name="theirs", work=int, seconds=[2.0, 20.0, 6.0])
    # a load that slows down a whole round does not change the ratio
    assert over(ours, theirs) == (2.0, 2.0, 3.0)
    assert spread([5.0]) == (5.0, 5.0, 5.0)
    with pytest.raises(ValueError):
        over(ours, Contestant(name="short", work=int, seconds=[1.0]))
