"""Comparison of learners."""

import torch


def equal(a, b):
    """Whether two learners are bitwise equal: weights, open period, moments, context."""
    mine, other = a.state, b.state
    same = all(
        torch.equal(x, y)
        for one, two in zip(mine.levels, other.levels, strict=True)
        for x, y in zip(flat(one), flat(two), strict=True)
    )
    pairs = zip(flat(mine.averages), flat(other.averages), strict=True)
    same = same and all(torch.equal(x, y) for x, y in pairs)
    left, right = a.reader.tensors(mine.stream.context), b.reader.tensors(other.stream.context)
    return (
        same
        and mine.stream._replace(context=None) == other.stream._replace(context=None)
        and left.keys() == right.keys()
        and all(torch.equal(left[name], right[name]) for name in left)
    )


def flat(state):
    """The tensors in nested tuples."""
    if isinstance(state, tuple):
        return [tensor for part in state for tensor in flat(part)]
    return [state]
