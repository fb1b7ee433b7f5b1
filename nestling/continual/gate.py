"""The gate over levels: which states of a memory speak where it is asked.

A learner with L written levels is L + 1 experts: expert l is the model with its l slowest levels as
they are now and the others at the base. Averages over what it has been
(``nestling.continual.average``), if it keeps any, are experts between the first and these. A gate
seats some of them in a mixture
(``nestling.core.mixture.followed``) that follows whoever predicts the text of the context best. Its
weights begin alike in every context, and nothing of them is stored.
"""

from nestling.core.error import UserError, did_you_mean

GATES = ("levels", "base")  # every expert; the first and the last


def check_gate(name: str | None) -> str | None:
    """The gate; an unknown one raises UserError."""
    if name is not None and name not in GATES:
        raise UserError(f"unknown gate {name!r}: {did_you_mean(name, GATES)}")
    return name


def seats(gate: str | None, experts: int) -> tuple[int, ...]:
    """Which of so many experts, the base first, a gate mixes; None: the last alone.

    >>> seats("levels", 3), seats("base", 3), seats(None, 3)
    ((0, 1, 2), (0, 2), (2,))
    """
    if gate is None:
        return (experts - 1,)
    return tuple(range(experts)) if gate == "levels" else (0, experts - 1)
