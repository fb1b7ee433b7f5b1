"""Gradients written by hand, where a gradient of the gradient is asked for: found, or refused."""

import contextlib
import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from nestling.core.error import UserError

_open: list[contextlib.AbstractContextManager] = []  # of ``twice``, one inside the other


class twice:  # noqa: N801, named as what it does, like torch.no_grad
    """What is computed inside can be differentiated twice; may be entered again.

    Forms that have gradients of first order only stand back for those that have more.
    """

    def __enter__(self) -> None:
        attention = sdpa_kernel(SDPBackend.MATH)
        attention.__enter__()
        _open.append(attention)

    def __exit__(self, *_: object) -> None:
        _open.pop().__exit__(None, None, None)


def wanted_twice() -> bool:
    """Whether this is inside ``twice``."""
    return bool(_open)


def as_now() -> tuple[contextlib.AbstractContextManager, contextlib.AbstractContextManager]:
    """For torch's checkpoint: what is computed again takes the form that it had at first."""
    return contextlib.nullcontext(), twice() if wanted_twice() else contextlib.nullcontext()


def again(
    function: Callable[..., Sequence[Tensor]],
    inputs: Sequence[Tensor | None],
    grads: Sequence[Tensor | None],
) -> tuple[Tensor | None, ...]:
    """Gradients for ``inputs`` of outputs with ``grads``, in a form that can be differentiated.

    ``function`` computes the outputs from the inputs once more, by operations that torch knows. For
    a ``backward`` while ``torch.is_grad_enabled()``: somebody wants a graph of the gradient.
    """
    # views, for an input may have been made of another one
    views = [x.view_as(x) if x is not None and x.requires_grad else x for x in inputs]
    wanted = [x for x in views if x is not None and x.requires_grad]
    with torch.autocast(wanted[0].device.type, enabled=False):
        outputs = function(*views)
    pairs = [
        (y, grad)
        for y, grad in zip(outputs, grads, strict=True)
        if grad is not None and y.requires_grad
    ]
    if not pairs:
        return (None,) * len(inputs)
    found = torch.autograd.grad(
        [y for y, _ in pairs], wanted, [grad for _, grad in pairs], create_graph=True,
        allow_unused=True,
    )  # fmt: skip
    of_each = iter(found)
    return tuple(next(of_each) if x is not None and x.requires_grad else None for x in views)


def once(name: str, instead: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A ``backward`` of a torch.autograd.Function that cannot be differentiated again.

    Differentiating its gradient raises a UserError that names the function and says what to do
    ``instead``. torch's ``once_differentiable`` silently drops terms: when the incoming gradient
    has no history, as that of a sum, and with ``allow_unused=True``, since its error is not
    connected to the inputs. Here it is connected to everything the gradient depends on: the saved
    tensors and the incoming gradients.
    """

    def decorated(backward: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(backward)
        def first(ctx: Any, *grads: Any) -> Any:
            with torch.no_grad():
                found = backward(ctx, *grads)
            if not torch.is_grad_enabled():
                return found
            sources = [x for x in (*grads, *ctx.saved_tensors) if x is not None and x.requires_grad]
            places = [i for i, x in enumerate(found) if x is not None]
            marked = list(found)
            if sources and places:
                text = f"{name} has gradients of first order only (no create_graph=True); {instead}"
                ends = _Refused.apply(text, len(places), *(found[i] for i in places), *sources)
                for i, x in zip(places, ends, strict=True):
                    marked[i] = x
            return tuple(marked)

        return first

    return decorated


class _Refused(torch.autograd.Function):
    """The first ``count`` tensors as they are; asking for their gradient is an error."""

    @staticmethod
    def forward(ctx: Any, text: str, count: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.text = text
        return tuple(x.view_as(x) for x in tensors[:count])

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        raise UserError(ctx.text)


def refused(tensors: Iterable[Tensor]) -> bool:
    """Whether something that these were made of has gradients of first order only."""
    waiting, seen = [x.grad_fn for x in tensors if x.grad_fn is not None], set()
    while waiting:
        node = waiting.pop()
        if node not in seen:
            seen.add(node)
            waiting += [above for above, _ in node.next_functions if above is not None]
    return any(node.name() == f"{_Refused.__name__}Backward" for node in seen)
