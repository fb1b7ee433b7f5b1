"""MQAR follows Zoology."""

import pytest

from nestling.core.error import UserError
from nestling.tasks import IGNORED
from nestling.tasks.mqar import Mqar


@pytest.mark.parametrize("config", Mqar.difficulties(), ids=str)
def test_every_pair_is_queried_once(config):
    task = Mqar(config)
    half, told = task.vocab_size // 2, 2 * config.pairs
    for row, label in zip(*(part.tolist() for part in task.examples(3, 20)), strict=True):
        pairs = dict(zip(row[:told:2], row[1:told:2], strict=True))
        assert len(pairs) == config.pairs == len(set(pairs.values()))
        assert all(0 < key < half <= value for key, value in pairs.items())
        asked = {row[t]: one for t, one in enumerate(label) if one != IGNORED}
        assert asked == pairs
        assert all(t >= told and t % 2 == 0 for t, one in enumerate(label) if one != IGNORED)


def test_query_gaps_follow_a_power_law():
    """By the power law half of a single query's gaps are among the first three of 60."""
    task = Mqar(Mqar.Config(pairs=1, length=122, vocab_size=64))
    labels = task.examples(0, 4000).labels
    gaps = (labels != IGNORED).nonzero()[:, 1] // 2 - 1
    law = [place ** (0.01 - 1) for place in range(1, 61)]
    expected = sum(law[:3]) / sum(law)
    share = (gaps < 3).double().mean().item()
    assert abs(share - expected) < 3 * (expected * (1 - expected) / 4000) ** 0.5


def test_sizes_that_do_not_fit_are_refused():
    for values in ({"length": 63}, {"pairs": 17}, {"vocab_size": 8}):
        with pytest.raises(UserError):
            Mqar.Config(**values)
