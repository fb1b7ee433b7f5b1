"""Periods: which rows restart, and which anchors move, row by row."""

from typing import Any, NamedTuple

import pytest
import torch

from nestling.core.memory import Flow
from nestling.memories.period import advance, read_by_period, start_rows
from nestling.memories.self_titans.layers import Layers

COUNT = torch.tensor([0, 3, 5, 7])


class State(NamedTuple):
    tail: torch.Tensor
    anchor: Any
    weight: Any
    momentum: Any
    count: torch.Tensor
    opened: Any = None


def state_of(memories: int | None, value: float = 0.0) -> State:
    shape = (4, 2) if memories is None else (4, 2, memories)
    one = torch.full((*shape, 3, 3), value)
    pair = (one, one) if memories is None else Layers(one, None)
    return State(torch.full((4, 1, 2), value), pair, pair, pair, COUNT)


@pytest.mark.parametrize("periods", [(4,), (4, 4, 8)])
@pytest.mark.parametrize("lengths", [None, (1, 0, 3, 1), (0, 1, 3, 1), (4, 1, 3, 1)])
def test_anchors_move_at_period_ends(periods, lengths):
    """Whether or not the host knows the ends, and never in a row that read nothing."""
    old = state_of(len(periods) if len(periods) > 1 else None)
    new = state_of(len(periods) if len(periods) > 1 else None, 1.0)
    valid = None
    if lengths is not None:
        valid = torch.arange(4) < torch.tensor(lengths)[:, None]
    after = advance(old, new.weight, new.momentum, periods, valid, 4, None)
    read = (4,) * 4 if lengths is None else lengths
    assert after.count.tolist() == [int(n) + m for n, m in zip(COUNT, read, strict=True)]
    assert after.weight is new.weight and after.momentum is new.momentum
    for row, (count, more) in enumerate(zip(after.count.tolist(), read, strict=True)):
        for place, period in enumerate(periods):
            moved = after.anchor[0][row] if len(periods) == 1 else after.anchor.first[row, :, place]
            assert bool((moved == 1).all()) == (more > 0 and count % period == 0)
            assert bool((moved == 0).all()) != (more > 0 and count % period == 0)


def test_anchor_is_the_running_weights_when_all_rows_end_a_period():
    """The same tensor objects, so that the next period needs no copy."""
    old, new = state_of(None)._replace(count=torch.full((4,), 4)), state_of(None, 1.0)
    assert advance(old, new.weight, (), (4,), None, 4, None).anchor is new.weight
    assert advance(old, new.weight, (), (4,), None, 3, None).anchor is old.anchor
    assert advance(old, new.weight, (), (4,), None, 3, True).anchor is new.weight


def test_document_start_resets_all_but_the_tail():
    state, start = state_of(3, 1.0), state_of(3)._replace(count=torch.zeros(4).long())
    rows = torch.tensor([True, False, False, True])
    after = start_rows(state._replace(opened=state.anchor), start, rows)
    assert after.tail is state.tail and after.opened is None
    assert after.count.tolist() == [0, 3, 5, 0]
    for layers in (after.anchor, after.weight, after.momentum):
        assert torch.equal(layers.first[:, 0, 0, 0, 0] == 0, rows) and layers.second is None
    assert start_rows(state, start, ~rows & rows) is state


def test_segments_never_cross_documents_or_periods():
    reset = torch.zeros(4, 9, dtype=torch.bool)
    reset[1, 6] = True
    state, seen = state_of(None), []

    def read(part, state):
        seen.append((part.begin, part.end, part.ends))
        length = part.end - part.begin
        y = torch.ones(4, 2, length, 3)
        return y, advance(state, state.weight, state.momentum, (4,), part.valid, length, part.ends)

    fresh = state._replace(count=torch.zeros(4).long())
    outputs, after = read_by_period(read, state, fresh, Flow(reset=reset), 9, 4)
    # rows end periods after tokens 4, 8 / 1, 5 and, after its reset, none / 3, 7 / 1, 5, 9
    edges = [0, 1, 3, 4, 5, 6, 7, 8, 9]
    assert [part[:2] for part in seen] == list(zip(edges[:-1], edges[1:], strict=True))
    assert sum(y.shape[2] for y in outputs) == 9
    assert after.count.tolist() == [9, 3, 14, 16]
