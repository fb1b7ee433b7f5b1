"""The optimizer of a sharded model: each process updates pieces of it, as plain tensors.

Elementwise and row-wise rules update the local shard of a parameter. Rules that need a whole
parameter (Newton-Schulz, the norm of a vector) assign it to one process, its owner. The owner keeps
the parameter and its optimizer state whole, receives the whole gradient, and sends back the updated
shards. So a matrix is orthogonalised once and not by every process, the optimizer state takes no
more memory than in shards, and every rule runs the same code as in a single process. The price is
two exchanges per step, in each of which every number of such parameters is sent once.
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
WAITING = ("sums", "starts")  # tensors of the parameter's shape kept by ``Leveled``


class Piece(NamedTuple):
    """The piece of a parameter that one process updates."""

    parameter: nn.Parameter  # of the model, sharded
    written: nn.Parameter  # by the optimizer of this process; empty if another one owns it
    owner: int | None  # rank in the shard group that updates it whole; None: each its shard
    parts: tuple[str, ...]  # names of its elementwise optimizer state
    group: int  # the number of its group


class Pieces:
    """A ``Leveled`` over pieces, with the interface that a run needs; all processes call it.

    ``make`` builds it for groups. Its state is that of a single process, in shards. Raises
    UserError for an optimizer with state shared by many parameters.
    """

    def __init__(self, groups: Groups, make: Callable[[Groups], Leveled], group: Any):
        self._group, self._rank = group, distributed.get_rank(group)
        probe = make([dict(group) for group in groups]).inner
        if not isinstance(probe, Ruled | Watched):
            raise UserError(
                f"{type(probe).__name__} has state shared by many parameters, which cannot be "
                "sharded; train with --shard none, or choose another optimizer"
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
        """Send the owners the current values of their parameters."""
        owned = [piece for piece in self._pieces if piece.owner is not None]
        wholes = self._to_owners(owned, [part(piece.parameter) for piece in owned])
        for piece in owned:
            if piece.parameter in wholes:
                piece.written.copy_(wholes[piece.parameter])

    def _summed(self, x: Tensor) -> Tensor:
        """The sum over the processes of the shard group."""
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
        """The names of the groups written at the last step."""
        return self.leveled.fired

    def zero_grad(self) -> None:
        """Clear the gradients of the model and of the pieces."""
        for piece in self._pieces:
            piece.parameter.grad = piece.written.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Send gradients to the owners, update, and send the updated shards back."""
        given = [(p, p.parameter.grad) for p in self._pieces if p.owner is not None]
        owned = [(piece, part(gradient)) for piece, gradient in given if gradient is not None]
        wholes = self._to_owners([piece for piece, _ in owned], [x for _, x in owned])
        for piece in self._pieces:
            gradient = piece.parameter.grad
            if piece.owner is None:
                piece.written.data = part(piece.parameter)  # torch may have reallocated it
                gradient = None if gradient is None else part(gradient)
            else:
                gradient = wholes.get(piece.parameter)
            piece.written.grad = gradient if piece.written.numel() else None
        firing = self.leveled.next_firing()
        self.leveled.step()
        self._to_parts([p for p in self._pieces if p.owner is not None and firing[p.group]])

    def _to_owners(self, pieces: list[Piece], parts: list[Tensor]) -> dict[Tensor, Tensor]:
        """Gather shards on the owners: the whole tensor of each parameter owned here."""
        ranks = range(self._world)
        sent = [[x for p, x in zip(pieces, parts, strict=True) if p.owner == r] for r in ranks]
        mine = [piece for piece in pieces if piece.owner == self._rank]
        got = self._exchange(sent, [[self._shape(p, rank) for p in mine] for rank in ranks], pieces)
        return {p.parameter: torch.cat([row[i] for row in got]) for i, p in enumerate(mine)}

    def _to_parts(self, pieces: list[Piece]) -> None:
        """Send each process its shards of what the owners have updated."""
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
        """The shape of a process's shard of a parameter: torch cuts rows like ``chunk``."""
        rows, *rest = piece.parameter.shape
        share = -(-rows // self._world)
        return min(rows, share * (rank + 1)) - min(rows, share * rank), *rest

    def _exchange(
        self, sent: list[list[Tensor]], shapes: list[list[tuple[int, ...]]], pieces: list[Piece]
    ) -> list[list[Tensor]]:
        """Send each process its list of tensors; return those received, of these shapes."""
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
        """The state as in a single process, with what is kept here: DTensors, or owned tensors."""
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
        """A tensor of a parameter's state as a DTensor, or whole on its owner."""
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
        """Load this process's part of the state of a single process, and the model's weights."""
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
    """The names of a parameter's elementwise optimizer state."""
    if isinstance(optimizer, Ruled):
        return optimizer.rule(group).buffers
    return tuple(name for name in optimizer.parts if name != "step")
