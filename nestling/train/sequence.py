"""One sequence read by several processes: each reads a segment and passes its memory on.

The state of a block at the end of a segment is sent to the process of the next segment as soon as
it is computed, and its gradient comes back the same way. So while one process runs block n + 1 on
its segment, the next runs block n on its own: P processes take the time of N + P - 1 blocks on a
segment, instead of P N one after another. Any split of a sequence gives the same result as the
whole, so this is exact for every memory; ``Chain`` refuses states that cannot be passed on.
"""

import contextlib
from collections.abc import Generator, Sequence
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor, distributed
from torch.autograd.function import once_differentiable
from torch.utils._pytree import tree_map

from nestling.core.error import UserError
from nestling.core.memory import detached, map_state
from nestling.memories.attention import Attention
from nestling.models import in_context
from nestling.models.cache import MemoryCache
from nestling.models.hf import HopeForCausalLM

Form = list[tuple[torch.Size, torch.dtype]]


class Chain:
    """The processes that read one sequence with ``model``, in the order of ``group``.

    Each process calls the model on its own segment inside ``reading``, then calls ``backward`` once
    on its part of the loss; the gradients of the sequence are the sums over the processes.
    ``group`` is a group of torch.distributed, by default all processes. Raises UserError for a
    model with state that cannot be passed on.
    """

    def __init__(self, model: HopeForCausalLM, group: Any = None):
        check(model)
        self.model, self.group = model, group
        self.rank, self.world = distributed.get_rank(group), distributed.get_world_size(group)
        # blocks without state have nothing to pass on
        self._keeps = [b.memory.init_state(1) is not None for b in model.body.each()]
        self._sent: list[tuple[Any, Tensor]] = []  # tensors that may still be in flight

    @property
    def first(self) -> bool:
        """Whether this process reads the first segment."""
        return self.rank == 0

    @property
    def last(self) -> bool:
        """Whether this process reads the last segment."""
        return self.rank == self.world - 1

    def segment(self, x: Tensor) -> Tensor:
        """The segment of a tensor for this process, see the function ``segment``."""
        return segment(x, self.rank, self.world)

    @contextlib.contextmanager
    def reading(self) -> Generator[None]:
        """A context for a call of the model on this process's segment.

        The first process continues from the cache it is given, the others from the state they
        receive, whatever their cache holds. Afterwards each has the memory at the end of its
        segment.
        """
        self.model.body.relay = self
        try:
            yield
        finally:
            self.model.body.relay = None

    def receive(self, index: int, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        """The stream before block ``index``, and the state of the previous process."""
        if self.first or not self._keeps[index]:
            return x, state
        state, tensors = self._take(self.rank - 1, x.device)
        places = [i for i, tensor in enumerate(tensors) if tensor.is_floating_point()]
        x, *floats = _Received.apply(self, _anchor(x), x, *(tensors[i] for i in places))
        for place, tensor in zip(places, floats, strict=True):
            tensors[place] = tensor
        return x, _put_together(state, tensors)

    def hand_on(self, index: int, x: Tensor, state: Any) -> Tensor:
        """Send the state of block ``index`` to the next process; return the stream after it."""
        if self.last or not self._keeps[index]:
            return x
        tensors = self._give(self.rank + 1, state, x.device)
        floats = [tensor for tensor in tensors if tensor.is_floating_point()]
        return _HandedOn.apply(self, _anchor(x), x, *floats)

    def brought_back(self, states: list[Any] | None) -> list[Any] | None:
        """The states of the last process, on the first one; None elsewhere. All call this."""
        if self.last and not self.first:
            self._give(0, detached(states), self.model.device)
            return None
        if not self.first:
            return None
        return (
            states if self.last else _put_together(*self._take(self.world - 1, self.model.device))
        )

    def carried(self, cache: MemoryCache, mask: Bool[Tensor, "B T"]) -> MemoryCache | None:
        """The memory for the first process to continue from after a sequence; None elsewhere.

        All processes call this, each with its memory after its segment and the ``mask`` of it.
        """
        states = self.brought_back(cache.states)
        if states is None:
            return None
        others = mask[:, shared(mask.shape[1], self.world) :].to(self.model.device)
        cache = cache.detach()
        cache.advance(states, others.shape[1], others.sum(1))
        return cache

    def _place(self, rank: int) -> int:
        return rank if self.group is None else distributed.get_global_rank(self.group, rank)

    def _give(self, rank: int, state: Any, device: torch.device) -> list[Tensor]:
        """Send a state; return its distinct tensors."""
        tree, tensors = _taken_apart(state)
        form = [(tensor.shape, tensor.dtype) for tensor in tensors]
        to = self._place(rank)
        distributed.send_object_list([(tree, form)], to, group=self.group, device=device)
        self.send(rank, tensors)
        return tensors

    def _take(self, rank: int, device: torch.device) -> tuple[Any, list[Tensor]]:
        """Wait for a state; return its tree and its tensors."""
        told: list[Any] = [None]
        come = self._place(rank)
        distributed.recv_object_list(told, come, group=self.group, device=device)
        tree, form = told[0]
        return tree, self.wait_for(rank, form, device)

    def send(self, rank: int, tensors: Sequence[Tensor]) -> None:
        """Send tensors without waiting for their arrival."""
        self._arrive()
        for tensor in tensors:
            given = tensor.detach().contiguous()
            work = distributed.isend(given, self._place(rank), group=self.group)
            self._sent.append((work, given))

    def _arrive(self) -> None:
        for work, _ in self._sent:
            work.wait()
        self._sent.clear()

    def wait_for(self, rank: int, form: Form, device: torch.device) -> list[Tensor]:
        """Receive tensors of this form from a process."""
        found = [torch.empty(shape, dtype=dtype, device=device) for shape, dtype in form]
        for tensor in found:
            distributed.recv(tensor, self._place(rank), group=self.group)
        return found


class Whole:
    """A process that reads whole sequences; the counterpart of ``Chain``."""

    def reading(self) -> contextlib.AbstractContextManager[None]:
        """A context that does nothing."""
        return contextlib.nullcontext()

    def carried(self, cache: MemoryCache, mask: Bool[Tensor, "B T"]) -> MemoryCache:
        """The memory to continue from."""
        return cache.detach()


class _Received(torch.autograd.Function):
    """The identity of stream and state; backward, the state's gradient is sent to its origin.

    The stream passes through it so that this happens after the backward pass of the block, in every
    process, regardless of what depends on the state.
    """

    @staticmethod
    def forward(ctx: Any, chain: Chain, anchor: Tensor, x: Tensor, *state: Tensor) -> Any:
        ctx.chain = chain
        return x.view_as(x), *(tensor.view_as(tensor) for tensor in state)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *grads: Tensor) -> Any:
        ctx.chain.send(ctx.chain.rank - 1, grads)
        return None, None, grad, *[None] * len(grads)


class _HandedOn(torch.autograd.Function):
    """The identity of the stream; backward, the gradient of the sent state is received."""

    @staticmethod
    def forward(ctx: Any, chain: Chain, anchor: Tensor, x: Tensor, *state: Tensor) -> Tensor:
        ctx.chain, ctx.form = chain, [(tensor.shape, tensor.dtype) for tensor in state]
        return x.view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        return None, None, grad, *ctx.chain.wait_for(ctx.chain.rank + 1, ctx.form, grad.device)


def _anchor(x: Tensor) -> Tensor:
    """A tensor that makes both ends of a transfer take part in the backward pass."""
    return torch.zeros((), device=x.device, requires_grad=torch.is_grad_enabled())


def _taken_apart(state: Any) -> tuple[Any, list[Tensor]]:
    """A state with numbers in place of its tensors, and the distinct tensors."""
    tensors: dict[int, tuple[int, Tensor]] = {}
    tree = map_state(lambda x: tensors.setdefault(id(x), (len(tensors), x))[0], state)
    return tree, [tensor for _, tensor in tensors.values()]


def _put_together(tree: Any, tensors: Sequence[Tensor]) -> Any:
    return tree_map(lambda number: None if number is None else tensors[number], tree)


def segment(x: Tensor, rank: int, world: int) -> Tensor:
    """The columns of a tensor [B, T, ...] that process ``rank`` of ``world`` reads.

    Raises UserError for a length that cannot be shared equally.
    """
    length = shared(x.shape[1], world)
    return x[:, rank * length : (rank + 1) * length]


def shared(length: int, world: int) -> int:
    """The tokens in each of ``world`` segments. Raises UserError if they cannot be equal."""
    if length % world:
        raise UserError(
            f"{length} tokens cannot be shared by {world} processes; choose a multiple of {world}"
        )
    return length // world


def check(model: HopeForCausalLM) -> None:
    """Raise UserError for a model whose sequences cannot be divided among processes."""
    configs = model.config.memory_configs()
    for block in model.body.each():
        grows = block.memory.grows & Attention.grows
        if grows and getattr(configs[block.name], "window", None) is None:
            raise UserError(
                f"{block.name} keeps all earlier positions, so the last process would get the "
                "whole sequence; use attention with a window, or --divide rows"
            )
    refused = {
        "levels that learn from the next token": bool(in_context.signalled(model)),
        "a head that is a level": model.head_level is not None,
        "truncate, which counts tokens of a call": model.config.truncate is not None,
    }
    for what, there in refused.items():
        if there:
            raise UserError(
                f"{what} does not work with divided sequences; leave it out, or use --divide rows"
            )
