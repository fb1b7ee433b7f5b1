"""The order of documents: a permutation, as a list or computed by index."""

import pytest
import torch

from nestling.data import order as module
from nestling.data.order import Order


@pytest.fixture(params=[2**20, 0], ids=["listed", "computed"])
def listed(request, monkeypatch):
    monkeypatch.setattr(module, "LISTED", request.param)
    return request.param


@pytest.mark.parametrize("count", [1, 2, 5, 64, 200])
def test_order_is_a_permutation_set_by_seed_and_epoch(listed, count):
    orders = [
        [Order(count, seed=seed, epoch=epoch)[place] for place in range(count)]
        for seed, epoch in ((0, 0), (0, 0), (0, 1), (1, 0))
    ]
    assert all(sorted(order) == list(range(count)) for order in orders)
    assert orders[0] == orders[1]
    if count >= 64:
        assert len({tuple(order) for order in orders}) == 3
        # neighbours are apart: about a third of the count on average
        apart = torch.tensor(orders[0], dtype=torch.float64).diff().abs().mean() / count
        assert 0.2 < float(apart) < 0.5
    with pytest.raises(IndexError):
        Order(count, seed=0, epoch=0)[count]
