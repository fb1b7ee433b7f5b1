"""Second-order gradients of hand-written backward passes: computed another way, or refused."""

import contextlib
import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from nestling.core.error import UserError

_open: list[contextlib.AbstractContextManager] = []  # nested ``twice``


class twice:  # noqa: N801, in lower case like torch.no_grad
    """A context in which everything computed can be differentiated twice; reentrant.

    Implementations with first-order gradients only are not used inside.
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
    """Contexts for torch's checkpoint, so that recomputation uses the same implementations."""
    return contextlib.nullcontext(), twice() if wanted_twice() else contextlib.nullcontext()


def again(
    function: Callable[..., Sequence[Tensor]],
    inputs: Sequence[Tensor | None],
    grads: Sequence[Tensor | None],
) -> tuple[Tensor | None, ...]:
    """The gradients of ``inputs``, given ``grads`` of the outputs, in differentiable form.

    ``function`` recomputes the outputs from the inputs in torch operations. For use in a
    ``backward`` while ``torch.is_grad_enabled()``, that is, with ``create_graph=True``.
    """
    # views, because one input may have been computed from another
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
    """Decorate a ``backward`` of a torch.autograd.Function that cannot be differentiated again.

    Differentiating its gradient raises a UserError that names the function and says what to do
    ``instead``. torch's ``once_differentiable`` can silently drop terms, because its error is not
    connected to the inputs: if the incoming gradient has no history, such as that of a sum, and
    with ``allow_unused=True``. Here the error is connected to everything the gradient depends on:
    the saved tensors and the incoming gradients.
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
    """The identity of the first ``count`` tensors; asking for their gradient is an error."""

    @staticmethod
    def forward(ctx: Any, text: str, count: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.text = text
        return tuple(x.view_as(x) for x in tensors[:count])

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        raise UserError(ctx.text)


def refused(tensors: Iterable[Tensor]) -> bool:
    """Whether these tensors depend on something with first-order gradients only."""
    waiting, seen = [x.grad_fn for x in tensors if x.grad_fn is not None], set()
    while waiting:
        node = waiting.pop()
        if node not in seen:
            seen.add(node)
            waiting += [above for above, _ in node.next_functions if above is not None]
    return any(node.name() == f"{_Refused.__name__}Backward" for node in seen)
