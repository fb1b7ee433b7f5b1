"""How many tokens a chunk of the chunk form has, if nobody says: a cost model of one line.

Starting the operations of a chunk costs the same whatever its size, and so does a pass over the
states of all rows and heads; what is done for pairs of tokens grows with the size, and products of
gates with its square. Products with keys and values are so little beside these that they are not
in it.
"""

from typing import NamedTuple

SIZES = (16, 32, 64, 128)  # tokens


class Cost(NamedTuple):
    """Nanoseconds, forward and backward, on two threads of a CPU; only their ratios matter."""

    start: float  # a chunk
    state: float  # a chunk, and number of the state of a row and head
    pair: float  # two tokens of a chunk, row and head
    triple: float  # three tokens of a chunk, row and head


# Fitted to the times of 10 shapes and SIZES each: docs/performance.md, and `nestling bench ops`.
COSTS = {  # by whether something is erased, and whether there is a momentum
    (True, True): Cost(1.1e6, 17.0, 20.0, 0.28),
    (True, False): Cost(840e3, 19.0, 34.0, 0.0),
    (False, True): Cost(36e3, 13.0, 2.0, 0.26),
    (False, False): Cost(17e3, 3.6, 6.5, 0.02),
}


def nanoseconds(cost: Cost, size: int, *, rows: int, state: int) -> float:
    """Time of a token of all rows, in chunks of ``size`` tokens.

    (start + rows state_cost state) / C + rows (pair C + triple C^2), with C = ``size``, ``rows``
    the rows of the batch times heads, and ``state`` the numbers of the state of each.
    """
    opening = cost.start + rows * state * cost.state
    return opening / size + rows * size * (cost.pair + size * cost.triple)


def chunk_for(*, rows: int, key: int, value: int, erases: bool, momentum: bool) -> int:
    """The size of SIZES at which a token costs least.

    ``rows`` is rows of the batch times heads; ``key`` and ``value`` are the widths of a head.

    >>> [chunk_for(rows=n, key=64, value=64, erases=True, momentum=True) for n in (1, 16, 256)]
    [128, 64, 32]
    """
    cost, state = COSTS[erases, momentum], key * value
    return min(SIZES, key=lambda size: nanoseconds(cost, size, rows=rows, state=state))
