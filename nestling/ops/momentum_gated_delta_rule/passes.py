"""Products with a state that pass over it as few times as possible, forward and backward.

A state [*, V, K] is far larger than the rows of a chunk, so the time goes into reading and writing
it. Each function here also returns the state as a second output. It then owns the gradient that
comes back for that output and adds its own part in place, within the matrix product. A state that
is passed on must be used exactly once, by another function of this file.

Each function also has a plain form in torch operations, for second-order gradients and for
torch.compile, which cannot tell that the buffer written in place is owned.
"""

from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from nestling.core.gradient import again


def _matrices(x: Tensor) -> Tensor:
    """View [*, R, C] as [N, R, C]."""
    return x.reshape(-1, *x.shape[-2:])


def _rows(rows: Tensor, lead: tuple[int, ...]) -> Tensor:
    return _matrices(rows.expand(*lead, *rows.shape[-2:]))


def _summed(grad: Tensor, like: Tensor) -> Tensor:
    """Sum a gradient over the dimensions its input was broadcast along."""
    return grad.sum_to_size(like.shape)


def _inner(x: Tensor, y: Tensor, buffer: Tensor, like: Tensor) -> Tensor:
    """Inner products of the matrices of x and y; ``buffer`` is overwritten."""
    return _summed(torch.mul(x, y, out=buffer).sum((-1, -2)), like)


def _product(weight: Tensor, rows: Tensor, transposed: bool, last: bool) -> tuple[Tensor, Tensor]:
    part = weight[:, :, -1] if last else weight
    return rows @ (part.mT if transposed else part), weight


class _Product(torch.autograd.Function):
    """rows @ weight^T (or rows @ weight), and the weight itself."""

    @staticmethod
    def forward(ctx, weight: Tensor, rows: Tensor, transposed: bool, last: bool):
        part = weight[:, :, -1] if last else weight
        flat, lead = _matrices(part), part.shape[:-2]
        wide = _rows(rows, lead)
        ctx.save_for_backward(weight, rows)
        ctx.set_materialize_grads(False)
        ctx.options = (transposed, last)
        y = torch.bmm(wide, flat.mT if transposed else flat)
        return y.view(*lead, *y.shape[-2:]), weight.view_as(weight)

    @staticmethod
    def backward(ctx, *grads: Any):
        grad, grad_weight = grads
        weight, rows = ctx.saved_tensors
        transposed, last = ctx.options
        if torch.is_grad_enabled():
            plain = partial(_product, transposed=transposed, last=last)
            return *again(plain, (weight, rows), grads), None, None
        if grad is None:
            return grad_weight, None, None, None
        part = weight[:, :, -1] if last else weight
        flat, lead = _matrices(part), part.shape[:-2]
        wide, grad = _rows(rows, lead), _matrices(grad)
        left, right = (grad, wide) if transposed else (wide, grad)
        if grad_weight is None and not last:
            grad_weight = torch.bmm(left.mT, right).view_as(weight)
        else:
            if grad_weight is None:
                grad_weight = torch.zeros_like(weight)
            target = grad_weight[:, :, -1] if last else grad_weight
            if target.is_contiguous():
                target.view_as(flat).baddbmm_(left.mT, right)
            else:
                target += torch.bmm(left.mT, right).view_as(target)
        grad_rows = None
        if ctx.needs_input_grad[1]:
            grad_rows = torch.bmm(grad, flat if transposed else flat.mT)
            grad_rows = _summed(grad_rows.view(*lead, *grad_rows.shape[-2:]), rows)
        return grad_weight, grad_rows, None, None


def read_rows(
    weight: Float[Tensor, "*N V K"], rows: Float[Tensor, "*M C K"]
) -> tuple[Float[Tensor, "*N C V"], Float[Tensor, "*N V K"]]:
    """``rows @ weight^T`` for rows that broadcast over the weight's leading dimensions."""
    if torch.compiler.is_compiling():
        return _product(weight, rows, True, False)
    return _Product.apply(weight, rows, True, False)


def read_rows_back(
    weight: Float[Tensor, "*N V K"], rows: Float[Tensor, "*M C V"]
) -> tuple[Float[Tensor, "*N C K"], Float[Tensor, "*N V K"]]:
    """``rows @ weight``: the product with the transposed weight."""
    if torch.compiler.is_compiling():
        return _product(weight, rows, False, False)
    return _Product.apply(weight, rows, False, False)


def read_rows_of_last(
    weight: Float[Tensor, "B H M V K"], rows: Float[Tensor, "B H C K"]
) -> tuple[Float[Tensor, "B H C V"], Float[Tensor, "B H M V K"]]:
    """``rows @ weight^T`` with the last of the M weights."""
    if torch.compiler.is_compiling():
        return _product(weight, rows, True, True)
    return _Product.apply(weight, rows, True, True)


def _shifted(state: Tensor, base: Tensor) -> tuple[Tensor, Tensor]:
    return state + base, state


class _Shifted(torch.autograd.Function):
    """state + base, and the state itself."""

    @staticmethod
    def forward(ctx, state: Tensor, base: Tensor):
        ctx.lead = state.ndim - base.ndim
        ctx.set_materialize_grads(False)
        return state + base, state.view_as(state)

    @staticmethod
    def backward(ctx, *grads: Any):
        grad, grad_state = grads
        if grad is None:
            return grad_state, None
        grad_base = grad.sum(tuple(range(ctx.lead))) if ctx.lead else grad.clone()
        if grad_state is None or torch.is_grad_enabled():
            return grad if grad_state is None else grad_state + grad, grad_base
        return grad_state.add_(grad), grad_base


def shift(
    state: Float[Tensor, "*N V K"], base: Float[Tensor, "*M V K"]
) -> tuple[Float[Tensor, "*N V K"], Float[Tensor, "*N V K"]]:
    """``state + base``, where the base has fewer leading dimensions."""
    if torch.compiler.is_compiling():
        return _shifted(state, base)
    return _Shifted.apply(state, base)


def _closed(weight, momentum, start, carried, kept, delta, pushed, k) -> tuple[Tensor, Tensor]:
    end = weight * start[..., None, None] + delta.mT @ k
    if carried is not None:
        end = end + momentum * carried[..., None, None]
    after = momentum if kept is None else momentum * kept[..., None, None]
    return end, after if pushed is None else after + pushed.mT @ k


class _Closed(torch.autograd.Function):
    """The state at the end of a chunk."""

    @staticmethod
    def forward(ctx, weight, momentum, start, carried, kept, delta, pushed, k):
        lead = weight.shape[:-2]
        wide = _rows(k, lead)
        end = weight * start[..., None, None]
        if carried is not None:
            end.addcmul_(momentum, carried[..., None, None])
        _matrices(end).baddbmm_(_matrices(delta).mT, wide)
        after = momentum if kept is None else momentum * kept[..., None, None]
        if pushed is not None:
            after = after.clone() if kept is None else after
            _matrices(after).baddbmm_(_matrices(pushed).mT, wide)
        ctx.save_for_backward(weight, momentum, start, carried, kept, delta, pushed, k)
        return end, after.view_as(after) if after is momentum else after

    @staticmethod
    def backward(ctx, *grads: Any):
        grad, grad_after = grads
        weight, momentum, start, carried, kept, delta, pushed, k = ctx.saved_tensors
        if torch.is_grad_enabled():
            return again(_closed, ctx.saved_tensors, grads)
        lead = weight.shape[:-2]
        wide, flat = _rows(k, lead), _matrices(grad)
        grad_delta = torch.bmm(wide, flat.mT).view(*lead, *delta.shape[-2:])
        grad_k = torch.bmm(_matrices(delta), flat)
        # each buffer is used for the inner products first, then for the gradient
        buffer, grad_carried, grad_kept, grad_pushed = torch.empty_like(weight), None, None, None
        if carried is not None:
            grad_carried = _inner(grad, momentum, buffer, carried)
        grad_start = _inner(grad, weight, buffer, start)
        grad_weight = torch.mul(grad, start[..., None, None], out=buffer)
        if kept is None:
            grad_momentum = grad_after.clone()
        else:
            buffer = torch.empty_like(momentum)
            grad_kept = _inner(grad_after, momentum, buffer, kept)
            grad_momentum = torch.mul(grad_after, kept[..., None, None], out=buffer)
        if carried is not None:
            grad_momentum.addcmul_(grad, carried[..., None, None])
        if pushed is not None:
            flat_after = _matrices(grad_after)
            grad_pushed = torch.bmm(wide, flat_after.mT).view(*lead, *pushed.shape[-2:])
            grad_pushed = _summed(grad_pushed, pushed)
            grad_k.baddbmm_(_matrices(pushed), flat_after)
        grad_k = _summed(grad_k.view(*lead, *k.shape[-2:]), k)
        return (
            grad_weight,
            grad_momentum,
            grad_start,
            grad_carried,
            grad_kept,
            _summed(grad_delta, delta),
            grad_pushed,
            grad_k,
        )


def advance(
    weight: Float[Tensor, "*N V K"],
    momentum: Float[Tensor, "*N V K"],
    start: Float[Tensor, "*L"],
    carried: Float[Tensor, "*L"] | None,
    kept: Float[Tensor, "*L"] | None,
    delta: Float[Tensor, "*N C V"],
    pushed: Float[Tensor, "*N C V"] | None,
    k: Float[Tensor, "*M C K"],
) -> tuple[Float[Tensor, "*N V K"], Float[Tensor, "*N V K"]]:
    """start W + carried S + delta^T k, and kept S + pushed^T k; a term is left out if None.

    ``kept`` of None counts as 1.
    """
    if torch.compiler.is_compiling():
        return _closed(weight, momentum, start, carried, kept, delta, pushed, k)
    return _Closed.apply(weight, momentum, start, carried, kept, delta, pushed, k)


def _carried(state, kept, written) -> tuple[Tensor, Tensor]:
    states = []
    for factor, new in zip(kept.unbind(), written.unbind(), strict=True):
        states.append(state.expand_as(new))
        state = torch.addcmul(new, factor[..., None, None], state)
    return torch.stack(states) if states else written, state


class _Carried(torch.autograd.Function):
    """The opening state of each chunk, and the state after the last."""

    @staticmethod
    def forward(ctx, state, kept, written):
        states = torch.empty_like(written)
        factors = kept[..., None, None]
        for n in range(len(written)):
            states[n] = state
            state = torch.addcmul(written[n], factors[n], state)
        ctx.save_for_backward(states, kept)
        return states, state

    @staticmethod
    def backward(ctx, *grads: Any):
        grad_states, grad = grads
        states, kept = ctx.saved_tensors
        grad_written, grad_kept, factors = [], [], kept[..., None, None]
        for n in reversed(range(len(states))):
            grad_written.append(grad)
            grad_kept.append((grad * states[n]).sum((-1, -2)))
            grad = torch.addcmul(grad_states[n], factors[n], grad)
        return grad, *(torch.stack(x[::-1]) for x in (grad_kept, grad_written))


def carry(
    state: Float[Tensor, "*M V K"], kept: Float[Tensor, "N *M"], written: Float[Tensor, "N *M V K"]
) -> tuple[Float[Tensor, "N *M V K"], Float[Tensor, "*M V K"]]:
    """Fold X_n = kept_n X_{n-1} + written_n. Returns X_0 .. X_{N-1}, and X_N."""
    if torch.compiler.is_compiling():
        return _carried(state, kept, written)
    return _Carried.apply(state, kept, written)
