"""Newton-Schulz for parameters: many of one shape at once, of any rank, on one device or many."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from nestling.core.error import UserError
from nestling.core.rule import newton_schulz
from nestling.optim.base import chosen, plain, whole

PRECISIONS = ("bfloat16", "float32")


def orthogonal(tensors: Sequence[Tensor], steps: int, precision: str = "bfloat16") -> list[Tensor]:
    """Newton-Schulz of tensors of one shape; those of a higher rank as (first, all others).

    ``precision`` is of the products; tensors wider than float32 keep their own dtype. Of tensors
    spread over devices every device gathers the whole, computes the same and keeps its part.

    Cost: as ``newton_schulz``; spread, one gathering of each tensor.

    >>> [str(t.dtype) for t in orthogonal([torch.ones(4, 3, 2)], 5)]
    ['torch.bfloat16']
    """
    gathered = [whole(tensor) for tensor in tensors]
    shape = gathered[0].shape
    flat = [tensor.reshape(shape[0], -1) for tensor in gathered]
    stack = flat[0][None] if len(flat) == 1 else torch.stack(flat)
    dtype = stack.dtype if stack.dtype == torch.float64 else getattr(torch, precision)
    found = newton_schulz(stack, steps, dtype=dtype).unbind()
    return [spread(o.reshape(shape), like) for o, like in zip(found, tensors, strict=True)]


def spread(x: Tensor, like: Tensor) -> Tensor:
    """A tensor that every device has whole, spread as ``like`` is."""
    if plain(like):
        return x
    from torch.distributed.tensor import DTensor, Replicate

    if not isinstance(like, DTensor):
        return x
    mesh = like.device_mesh
    same = DTensor.from_local(x.contiguous(), mesh, [Replicate()] * mesh.ndim, run_check=False)
    return same.redistribute(mesh, like.placements)


def matched(shape: Sequence[int]) -> float:
    """0.2 sqrt(max(p, q)): the root mean square of orthogonal p x q becomes AdamW's usual 0.2."""
    return 0.2 * math.sqrt(max(shape[0], math.prod(shape[1:])))


def checked(steps: int, precision: str) -> None:
    """Raise UserError for what ``orthogonal`` cannot be given."""
    chosen("ns_precision", precision, PRECISIONS)
    if not 1 <= steps < 100:
        raise UserError(f"ns_steps is {steps}; give 1 to 99 (Muon has 5)")
