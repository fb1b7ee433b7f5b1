"""An optimizer of a divided model: each process writes pieces of it, as plain tensors.

A rule that goes number by number, or row by row, writes the part of a parameter that the process
keeps. What needs a parameter whole (Newton-Schulz, the length of a vector) has one owner for each:
it keeps the parameter and what is remembered of it whole, is sent the whole gradient, and sends
back the parts of what it has written. So a matrix is made orthogonal once and not by every process,
a process remembers as much as in parts, and every rule is computed by the same code as in one
process. The price is two exchanges in a step, in each of which such a number travels once.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, distributed, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from nestling.core.error import UserError
from nestling.optim import Leveled
from nestling.optim.ruled import Ruled
from nestling.optim.states import Watched
from nestling.rules.newton_schulz import part, spread

Groups = list[dict[str, Any]]
WAITING = ("sums", "starts")  # what ``Leveled`` keeps beside a parameter, of its shape


class Piece(NamedTuple):
    """What one process writes of a parameter."""

    parameter: nn.Parameter  # of the model, divided
    written: nn.Parameter  # by the optimizer of this process; empty where that is another's work
    owner: int | None  # which of those that hold the model writes it whole; None: each its part
    parts: tuple[str, ...]  # names of what is remembered of it number by number
    group: int  # the number of its group


class Pieces:
    """A ``Leveled`` over pieces, with the interface that a run needs; all call it together.

    ``make`` builds it for groups. Its state is that of one process, in parts.
    Raises UserError for an optimizer that remembers one thing of many parameters.
    """

    def __init__(self, groups: Groups, make: Callable[[Groups], Leveled], group: Any):
        self._group, self._rank = group, distributed.get_rank(group)
        probe = make([dict(group) for group in groups]).inner
        if not isinstance(probe, Ruled | Watched):
            raise UserError(
                f"{type(probe).__name__} remembers one thing of many parameters, which cannot be "
                "divided; train with --shard none, or choose another optimizer"
            )
        self._world = distributed.get_world_size(group)
        self._pieces: list[Piece] = []
        load = [0] * self._world
        for number, place in enumerate(groups):
            own = [self._piece(probe, number, p, load) for p in place["params"]]
            self._pieces += own
            place["params"] = [piece.written for piece in own]
        self._take_weights()
        self.leveled = make(groups)
        self.leveled.summed = self._summed

    def _piece(
        self, probe: Optimizer, number: int, parameter: nn.Parameter, load: list[int]
    ) -> Piece:
        options = probe.param_groups[number]
        parts, mine = remembered(probe, options), part(parameter)
        if by_rows(probe, options, parameter.ndim):
            return Piece(parameter, nn.Parameter(mine), None, parts, number)
        owner = load.index(min(load))
        load[owner] += parameter.numel()
        whole = mine.new_empty(parameter.shape if owner == self._rank else 0)
        return Piece(parameter, nn.Parameter(whole), owner, parts, number)

    @torch.no_grad()
    def _take_weights(self) -> None:
        """Have the owners know what their parameters are now."""
        owned = [piece for piece in self._pieces if piece.owner is not None]
        wholes = self._to_owners(owned, [part(piece.parameter) for piece in owned])
        for piece in owned:
            if piece.parameter in wholes:
                piece.written.copy_(wholes[piece.parameter])

    def _summed(self, x: Tensor) -> Tensor:
        """The sum over those that hold the model."""
        x = x.to(part(self._pieces[0].parameter).device)
        distributed.all_reduce(x, group=self._group)
        return x

    @property
    def inner(self) -> Optimizer:
        """The optimizer of this process."""
        return self.leveled.inner

    @property
    def param_groups(self) -> Groups:
        """Its groups."""
        return self.leveled.param_groups

    @property
    def fired(self) -> tuple[str, ...]:
        """Names of the groups that were written at the last step."""
        return self.leveled.fired

    def zero_grad(self) -> None:
        """Clear the gradients of the model and of the pieces."""
        for piece in self._pieces:
            piece.parameter.grad = piece.written.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Hand gradients to whoever writes them, write, and send round what was written whole."""
        given = [(p, p.parameter.grad) for p in self._pieces if p.owner is not None]
        owned = [(piece, part(gradient)) for piece, gradient in given if gradient is not None]
        wholes = self._to_owners([piece for piece, _ in owned], [x for _, x in owned])
        for piece in self._pieces:
            gradient = piece.parameter.grad
            if piece.owner is None:
                piece.written.data = part(piece.parameter)  # torch may have laid it anew
                gradient = None if gradient is None else part(gradient)
            else:
                gradient = wholes.get(piece.parameter)
            piece.written.grad = gradient if piece.written.numel() else None
        firing = self.leveled.next_firing()
        self.leveled.step()
        self._to_parts([p for p in self._pieces if p.owner is not None and firing[p.group]])

    def _to_owners(self, pieces: list[Piece], parts: list[Tensor]) -> dict[Tensor, Tensor]:
        """Of each parameter that this process owns the whole, of what is given in parts."""
        ranks = range(self._world)
        sent = [[x for p, x in zip(pieces, parts, strict=True) if p.owner == r] for r in ranks]
        mine = [piece for piece in pieces if piece.owner == self._rank]
        got = self._exchange(sent, [[self._shape(p, rank) for p in mine] for rank in ranks], pieces)
        return {p.parameter: torch.cat([row[i] for row in got]) for i, p in enumerate(mine)}

    def _to_parts(self, pieces: list[Piece]) -> None:
        """Have each process take its part of what the owners have written."""
        ranks = range(self._world)
        mine = [piece for piece in pieces if piece.owner == self._rank]
        cut = [p.written.detach().split([self._shape(p, r)[0] for r in ranks]) for p in mine]
        wanted = [[p for p in pieces if p.owner == rank] for rank in ranks]
        shapes = [[self._shape(p, self._rank) for p in row] for row in wanted]
        got = self._exchange([[rows[r] for rows in cut] for r in ranks], shapes, pieces)
        for row, found in zip(wanted, got, strict=True):
            for piece, x in zip(row, found, strict=True):
                part(piece.parameter).copy_(x)

    def _shape(self, piece: Piece, rank: int) -> tuple[int, ...]:
        """Of the part of a parameter that a process keeps: torch cuts rows as ``chunk`` does."""
        rows, *rest = piece.parameter.shape
        share = -(-rows // self._world)
        return min(rows, share * (rank + 1)) - min(rows, share * rank), *rest

    def _exchange(
        self, sent: list[list[Tensor]], shapes: list[list[tuple[int, ...]]], pieces: list[Piece]
    ) -> list[list[Tensor]]:
        """Give each process its list of tensors; what each has given, of these shapes."""
        if not pieces:
            return [[] for _ in shapes]
        like = part(pieces[0].parameter)
        given = torch.cat([like.new_empty(0), *(x.flatten() for row in sent for x in row)])
        sizes = [[math.prod(shape) for shape in row] for row in shapes]
        found = given.new_empty(sum(map(sum, sizes)))
        distributed.all_to_all_single(
            found,
            given,
            [sum(row) for row in sizes],
            [sum(x.numel() for x in row) for row in sent],
            group=self._group,
        )
        blocks = found.split([n for row in sizes for n in row])
        each = iter(blocks)
        return [[next(each).view(shape) for shape in row] for row in shapes]

    def state_dict(self) -> dict[str, Any]:
        """That of one process, in each with what it remembers: DTensors, or wholes that it owns."""
        own = self.leveled.state_dict()
        found: dict[str, Any] = own | {"inner": own["inner"] | {"state": {}}}
        found |= {name: {} for name in WAITING}
        for number, piece in enumerate(self._pieces):
            for name in WAITING:
                if str(number) in own[name]:
                    found[name][str(number)] = self._spread(piece, own[name][str(number)])
            if values := own["inner"]["state"].get(number):
                found["inner"]["state"][number] = {
                    name: self._spread(piece, x) if name in piece.parts else x
                    for name, x in values.items()
                }
        return found

    def _spread(self, piece: Piece, x: Tensor) -> Tensor:
        """What is kept here of a parameter, of which the others keep the rest or nothing."""
        like = piece.parameter
        if piece.owner is not None or not isinstance(like, DTensor):
            return x
        return DTensor.from_local(
            x.detach(),
            like.device_mesh,
            like.placements,
            run_check=False,
            shape=like.shape,
            stride=like.stride(),
        )

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what this process needs of the state of one process, and the model's weights."""
        self._take_weights()
        own = dict(state)
        saved = state["inner"]["state"]
        kept = {number: self._mine(number, values) for number, values in saved.items()}
        own["inner"] = state["inner"] | {"state": {n: v for n, v in kept.items() if v}}
        for name in WAITING:
            values = {n: self._mine(int(n), {name: x}) for n, x in state.get(name, {}).items()}
            own[name] = {n: v[name] for n, v in values.items() if v}
        self.leveled.load_state_dict(own)

    def _mine(self, number: int, values: Mapping[str, Any]) -> dict[str, Any]:
        piece = self._pieces[number]
        if not piece.written.numel():
            return {}
        if piece.owner is not None:
            return dict(values)
        names = (*piece.parts, *WAITING)
        place = piece.written.device
        return {
            n: part(spread(x.to(place), piece.parameter)) if n in names else x
            for n, x in values.items()
        }


def by_rows(optimizer: Optimizer, group: dict[str, Any], dimensions: int) -> bool:
    """Whether the rows of a tensor with ``dimensions`` axes can be updated independently."""
    if not isinstance(optimizer, Ruled):
        return True
    return group.get("preconditioner", "none") == "none" and optimizer.rule(group).by_rows(
        dimensions
    )


def remembered(optimizer: Any, group: dict[str, Any]) -> tuple[str, ...]:
    """Names of what is remembered of a parameter number by number."""
    if isinstance(optimizer, Ruled):
        return optimizer.rule(group).buffers
    return tuple(name for name in optimizer.parts if name != "step")
