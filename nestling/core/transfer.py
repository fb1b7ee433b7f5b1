"""How knowledge moves between the boxes of a nested system (Nested Learning, section 3.3)."""

from dataclasses import dataclass
from typing import NamedTuple


class Kind(NamedTuple):
    """A kind of transfer: its equations, whether gradients flow along it, and its meaning."""

    equations: str
    gradient: bool
    meaning: str


# Source: arXiv 2512.24695, section 3.3. Deviates: where the paper says that no gradient flows, that
# of the outer optimizer does flow through a recurrence into the projections; the state has no
# parameters of its own there.
KINDS = {
    "direct": Kind("24-26", False, "one uses the other's weights or output"),
    "non-parametric": Kind("27", False, "one uses what the other has read, stored verbatim"),
    "back-propagation": Kind("section 3.3", True, "one flow of gradients, written at two periods"),
    "initialisation": Kind("28", True, "one learns the other's initial state"),
    "weight generation": Kind("section 3.3", True, "one generates the other's weights"),
    "context generation": Kind("22-23", False, "one generates the other's context"),
}


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """Knowledge that moves between a box and another: the kind, the other box, and what it is.

    ``partner`` is the name of a box, or "weights" for trained weights that belong to no box. Raises
    ValueError for a ``kind`` that is not in KINDS.

    >>> print(Transfer(kind="initialisation", partner="weights", what="the first state"))
    initialisation, weights: the first state
    """

    kind: str
    partner: str
    what: str

    def __post_init__(self):
        if self.kind not in KINDS:
            raise ValueError(
                f"unknown kind of transfer {self.kind!r}; give one of {', '.join(KINDS)}"
            )

    def __str__(self) -> str:
        return f"{self.kind}, {self.partner}: {self.what}"


# shared by all in-context memories: the layers before and after them are trained weights
READ = Transfer(kind="direct", partner="weights", what="read by a query from projections")
MADE = Transfer(
    kind="context generation", partner="weights", what="projections compute its keys and values"
)
LEARNED = Transfer(
    kind="initialisation", partner="weights", what="its initial state, learned through all writes"
)


def added_to(name: str) -> Transfer:
    """The transfer of a momentum, which is the step of the box of this name."""
    return Transfer(kind="direct", partner=name, what="its value is the step")
