"""The gate over levels: a mixture of a memory's states when text is scored or generated.

A learner with L written levels provides L + 1 experts: expert l is the model with its l slowest
levels as they are now and the others at the base. Running averages
(``nestling.continual.average``), if there are any, are experts between the first and these. A gate
mixes some of them (``nestling.core.mixture.followed``) and follows the expert that predicts the
context best. Its weights start equal in every context and are not stored.
"""

from collections.abc import Mapping, Sequence

from torch import Tensor

from nestling.continual.average import Average
from nestling.core.error import UserError, did_you_mean

GATES = ("levels", "base")  # all experts; the first and the last


def check_gate(name: str | None) -> str | None:
    """The gate's name; an unknown one raises UserError."""
    if name is not None and name not in GATES:
        raise UserError(f"unknown gate {name!r}: {did_you_mean(name, GATES)}")
    return name


def seats(gate: str | None, experts: int) -> tuple[int, ...]:
    """The indices of the experts that a gate mixes (0 is the base); without a gate, the last.

    >>> seats("levels", 3), seats("base", 3), seats(None, 3)
    ((0, 1, 2), (0, 2), (2,))
    """
    if gate is None:
        return (experts - 1,)
    return tuple(range(experts)) if gate == "levels" else (0, experts - 1)


def experts(
    parameters: Sequence[Sequence[str]],
    start: Sequence[Sequence[Tensor]],
    averages: Sequence[Average],
    now: Mapping[str, Tensor],
) -> tuple[dict[str, Tensor], ...]:
    """The base, the averages, then the current levels, from the slowest alone to all of them.

    Each expert is a mapping from names to the weights of all levels; ``start`` is the base, ``now``
    the current one.
    """
    made = {}
    for names, base in zip(parameters, start, strict=True):
        made.update(zip(names, base, strict=True))
    found = [dict(made)]
    for average in averages:
        whole = {}
        for names, base, own in zip(parameters, start, average, strict=True):
            values = [(b.to(m.dtype) + m).to(b.dtype) for b, m in zip(base, own, strict=True)]
            whole.update(zip(names, values, strict=True))
        found.append(whole)
    for names in parameters:
        made.update({name: now[name] for name in names})
        found.append(dict(made))
    return tuple(found)
