"""Accumulate gradients in the levels of a learner, write them, and reset nested ones."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from nestling.continual.average import moved_on
from nestling.continual.state import State
from nestling.continual.stream import Gradients
from nestling.rules.level import CMSLevel, LevelState, gather, rewind, write


def gather_all(
    old: Sequence[LevelState],
    parameters: Sequence[Sequence[str]],
    read: Gradients,
    tokens: int,
    grams: Mapping[str, Tensor],
) -> tuple[LevelState, ...]:
    """The levels after adding the gradients of a segment of ``tokens`` tokens.

    ``parameters`` are each level's parameter names, ``grams`` the sums of outer products of inputs
    for those whose rule erases.
    """
    if read.sums is None:
        return tuple(level._replace(seen=level.seen + tokens) for level in old)
    levels, first = [], 0
    for level, names in zip(old, parameters, strict=True):
        own = [g[None] for g in read.sums[first : first + len(names)]]
        first += len(names)
        gram = [
            grams[name][None] if name in grams else torch.zeros_like(zero)
            for name, zero in zip(names, level.gram, strict=True)
        ]
        seen = torch.full_like(level.seen, tokens)
        terms = torch.full_like(level.terms, read.learned)
        levels.append(gather(level, own, seen=seen, terms=terms, gram=gram))
    return tuple(levels)


def write_all(
    writers: Sequence[CMSLevel],
    start: Sequence[Sequence[Tensor]],
    shares: Sequence[float | None],
    spans: Sequence[int],
    state: State,
    firing: Sequence[bool],
) -> tuple[State, tuple[int, ...]]:
    """Write the levels that fire; each then resets the next faster one, if that is nested.

    Everything is ordered slow to fast. Between writes and resets the averages over ``spans`` tokens
    are updated; the fastest level is always among those written. Returns the state and the number
    of writes of each level.
    """
    levels = [
        write(writer, own, level, rows=torch.ones_like(level.seen, dtype=torch.bool))
        if fires
        else level
        for writer, own, level, fires in zip(writers, start, state.levels, firing, strict=True)
    ]
    # before resets, which restart counts
    counts = [(int(b.writes), int(a.writes)) for b, a in zip(state.levels, levels, strict=True)]
    averages = state.averages
    if firing[-1]:
        averages = tuple(
            moved_on(average, levels, writers[-1].period / span)
            for average, span in zip(averages, spans, strict=True)
        )
    for slow, fires in enumerate(firing[:-1]):
        if fires and (share := shares[slow + 1]) is not None:
            levels[slow + 1] = rewind(levels[slow + 1], share)
    after = state._replace(levels=tuple(levels), averages=averages)
    return after, tuple(now - then for then, now in counts)


def share_moved(start: Sequence[Tensor], level: LevelState) -> float:
    """How far a level has moved, as a fraction of the norm of its base."""
    far = math.sqrt(sum(float(m.double().square().sum()) for m in level.moved))
    base = math.sqrt(sum(float(s.double().square().sum()) for s in start))
    return far / base if base else 0.0
