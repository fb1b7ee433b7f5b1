"""The default chunk size of the chunk form, from a one-line cost model.

Launching the operations of a chunk costs the same for any size, and so does a pass over the states
of all rows and heads. Work on pairs of tokens grows with the size, gate products with its square.
Products with keys and values are negligible beside these and left out.
"""

from typing import NamedTuple

SIZES = (16, 32, 64, 128)  # tokens


class Cost(NamedTuple):
    """Nanoseconds, forward and backward, on two threads of a CPU; only their ratios matter."""

    start: float  # per chunk
    state: float  # per chunk and number in the state of a row and head
    pair: float  # per pair of tokens in a chunk, row and head
    triple: float  # per triple of tokens in a chunk, row and head


# Fitted to measured times of 10 shapes with all SIZES: docs/performance.md, `nestling bench ops`.
COSTS = {  # by (erases, momentum)
    (True, True): Cost(1.1e6, 17.0, 20.0, 0.28),
    (True, False): Cost(840e3, 19.0, 34.0, 0.0),
    (False, True): Cost(36e3, 13.0, 2.0, 0.26),
    (False, False): Cost(17e3, 3.6, 6.5, 0.02),
}


def nanoseconds(cost: Cost, size: int, *, rows: int, state: int) -> float:
    """The time per token of all rows, in chunks of ``size`` tokens.

    (start + rows state_cost state) / C + rows (pair C + triple C^2), with C = ``size``, ``rows``
    the rows of the batch times heads, and ``state`` the numbers of the state of each.
    """
    opening = cost.start + rows * state * cost.state
    return opening / size + rows * size * (cost.pair + size * cost.triple)


def chunk_for(*, rows: int, key: int, value: int, erases: bool, momentum: bool) -> int:
    """The size among SIZES with the lowest cost per token.

    ``rows`` is rows of the batch times heads; ``key`` and ``value`` are the widths of a head.

    >>> [chunk_for(rows=n, key=64, value=64, erases=True, momentum=True) for n in (1, 16, 256)]
    [128, 64, 32]
    """
    cost, state = COSTS[erases, momentum], key * value
    return min(SIZES, key=lambda size: nanoseconds(cost, size, rows=rows, state=state))
