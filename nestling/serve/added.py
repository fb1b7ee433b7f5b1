"""Add what each row of a batch has learned to the linear maps, in one product."""

import contextlib
import functools
from collections.abc import Generator, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from nestling.continual.learner import ContinualLearner
from nestling.continual.study.change import Change, Factors
from nestling.continual.study.record import Studied


class Added(NamedTuple):
    """The changes of a memory to the weights of the model."""

    key: str  # names the memory and its version
    change: Change  # in the dtype of the model


class Shared(NamedTuple):
    """The changes of several memories to one map, concatenated."""

    left: Float[Tensor, "M S"]
    right: Float[Tensor, "S N"]
    owner: Int[Tensor, "S"]  # number of the memory


class Additions:
    """The change for each row of a batch, or None.

    Every row is multiplied by the factors of all memories and keeps only its own part: L (m * (R
    x)) is added to W x, with L and R the concatenated factors and m the row's part of the ranks.
    """

    def __init__(self, rows: Sequence[Added | None]):
        self.rows = list(rows)
        self._known: tuple[str, ...] = ()
        self._maps: dict[str, Shared] = {}
        self._place()

    def _place(self) -> None:
        """Concatenate the factors of the rows' memories, unless that is done already."""
        there = {one.key: one for one in self.rows if one is not None}
        if tuple(there) != self._known:
            self._known, self._maps = tuple(there), _side_by_side(list(there.values()))
        number = {key: index for index, key in enumerate(self._known)}
        self._whose = [-1 if one is None else number[one.key] for one in self.rows]

    def keep(self, rows: Sequence[int]) -> None:
        """Keep only these rows."""
        self.rows = [self.rows[row] for row in rows]
        self._place()

    def join(self, other: "Additions") -> None:
        """Append the rows of another batch."""
        self.rows += other.rows
        self._place()

    @contextlib.contextmanager
    def to(self, model: nn.Module) -> Generator[None]:
        """Within this context, add the changes to the linear maps of a model called with all
        rows."""
        hooks = []
        for name, shared in self._maps.items():
            whose = torch.tensor(self._whose, device=shared.owner.device)
            others = (whose[:, None] != shared.owner)[:, None]  # [B, 1, S]
            hook = functools.partial(_add, shared, others)
            module = model.get_submodule(name.rpartition(".")[0])
            hooks.append(module.register_forward_hook(hook))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


def _add(shared: Shared, others: Tensor, _: Any, args: tuple[Tensor, ...], out: Tensor) -> Tensor:
    return out + (args[0] @ shared.right.T).masked_fill(others, 0) @ shared.left.T


def _side_by_side(memories: Sequence[Added]) -> dict[str, Shared]:
    names = dict.fromkeys(name for one in memories for name in one.change)
    found = {}
    for name in names:
        parts = [(i, one.change[name]) for i, one in enumerate(memories) if name in one.change]
        owner = [i for i, factors in parts for _ in range(len(factors.right))]
        left = torch.cat([factors.left for _, factors in parts], 1)
        right = torch.cat([factors.right for _, factors in parts])
        found[name] = Shared(left, right, torch.tensor(owner, device=left.device))
    return found


def thin_change(
    learner: ContinualLearner, studied: Sequence[Studied], maps: frozenset[str]
) -> Change | None:
    """The changes of documents as one; None if they need their own weights.

    They do if the two low-rank products would cost more than half of the map itself, if it
    changes a weight that is not in ``maps``, or if it has non-finite values, so that they affect no
    other row.
    """
    if not learner.studies:
        return None
    own = learner.own
    parts: dict[str, list[Factors]] = {}
    for one in studied:
        for name, factors in one.change.items():
            parts.setdefault(name, []).append(factors)
    found = {}
    for name, several in parts.items():
        left = torch.cat([one.left for one in several], 1).to(own[name])
        right = torch.cat([one.right for one in several]).to(own[name])
        rows, columns = own[name].shape
        thin = 2 * len(right) * (rows + columns) <= rows * columns
        if name not in maps or not thin or not (left.isfinite().all() and right.isfinite().all()):
            return None
        found[name] = Factors(left, right)
    return found
