"""A function whose intermediate values are recomputed for the gradient."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from nestling.core.gradient import again


class Again(torch.autograd.Function):
    """``Again.apply(function, *tensors)``: keeps only the tensors, calls the function twice.

    torch's checkpoint does the same, but its forward pass took twice as long on a CPU, freeing and
    reallocating memory.
    """

    @staticmethod
    def forward(
        ctx: Any, function: Callable[..., tuple[Tensor, ...]], *parts: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.function = function
        ctx.save_for_backward(*parts)
        return function(*parts)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            return None, *again(ctx.function, ctx.saved_tensors, grads)
        wanted = ctx.needs_input_grad[1:]
        parts = [
            part.detach().requires_grad_(need)
            for part, need in zip(ctx.saved_tensors, wanted, strict=True)
        ]
        with torch.enable_grad(), torch.autocast(grads[0].device.type, enabled=False):
            outputs = ctx.function(*parts)
        found = iter(torch.autograd.grad(outputs, [p for p in parts if p.requires_grad], grads))
        return (None, *(next(found) if need else None for need in wanted))
