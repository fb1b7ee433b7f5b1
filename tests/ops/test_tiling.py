"""The cost model for chunk sizes: its properties, and explicit sizes."""

import importlib
import itertools

import pytest
import torch

from nestling.ops.momentum_gated_delta_rule import OP
from nestling.ops.momentum_gated_delta_rule.tiling import COSTS, SIZES, chunk_for, nanoseconds

KINDS = list(COSTS)
ROWS = (1, 2, 4, 16, 64, 256, 4096)
WIDTHS = (8, 16, 64, 128, 256)


def size_of(kind, rows, key, value):
    erases, momentum = kind
    return chunk_for(rows=rows, key=key, value=value, erases=erases, momentum=momentum)


@pytest.mark.parametrize("kind", KINDS)
def test_chunk_size_falls_with_rows_and_grows_with_state(kind):
    table = {(n, d): size_of(kind, n, d, d) for n, d in itertools.product(ROWS, WIDTHS)}
    for d in WIDTHS:
        sizes = [table[n, d] for n in ROWS]
        assert sizes == sorted(sizes, reverse=True)
    for n in ROWS:
        sizes = [table[n, d] for d in WIDTHS]
        assert sizes == sorted(sizes)
    assert len(set(table.values())) > 1, "one size for all shapes needs no model"


@pytest.mark.parametrize("kind", KINDS)
def test_chosen_size_is_cheapest_and_depends_on_state_size_only(kind):
    for rows, key, value in itertools.product(ROWS, WIDTHS, WIDTHS):
        chosen = size_of(kind, rows, key, value)
        costs = {s: nanoseconds(COSTS[kind], s, rows=rows, state=key * value) for s in SIZES}
        assert costs[chosen] == min(costs.values())
        assert chosen == size_of(kind, rows, value, key)


@pytest.mark.parametrize("erases", [True, False])
def test_explicit_size_wins_over_cost_model(erases, monkeypatch):
    module = importlib.import_module("nestling.ops.momentum_gated_delta_rule")
    taken, own = [], module._chunk
    monkeypatch.setattr(
        module, "_chunk", lambda *a, **k: taken.append(k["chunk_size"]) or own(*a, **k)
    )
    tokens = OP.inputs(0, batch=3, length=150, heads=2, key=6, value=4)
    if not erases:
        del tokens["beta"]
    ends = [OP.chunk(**tokens, chunk_size=size)[0] for size in (7, 1000, None)]
    assert taken == [7, 150, size_of((erases, True), 6, 6, 4)]
    for y in ends[1:]:
        torch.testing.assert_close(y, ends[0], rtol=1e-9, atol=1e-10)
