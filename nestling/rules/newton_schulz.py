"""Newton-Schulz: the nearest orthogonal matrix, by matrix products only."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from nestling.core.native import plain

# X <- a X + (b A + c A^2) X with A = X X^T: Muon's, to singular values of 0.7 .. 1.2
QUINTIC = (3.4445, -4.7750, 2.0315)
CUBIC = (1.5, -0.5, 0.0)
SMALLEST = 1e-7  # length below which a matrix counts as none


def newton_schulz(
    x: Float[Tensor, "*N p q"],
    steps: int = 5,
    *,
    coefficients: tuple[float, float, float] = QUINTIC,
    dtype: torch.dtype | None = None,
    smallest: float = SMALLEST,
) -> Float[Tensor, "*N p q"]:
    """Drive the singular values of x towards one, over its length first; zeros stay zeros.

    The length is sqrt(|x|^2 + smallest^2). Each step is X <- a X + (b A + c A^2) X with A = X X^T;
    of a tall x: X <- a X + X (b A + c A^2) with A = X^T X. Small singular values grow up to a^steps
    times, and rounding with them: to gather the polynomials of A first, at half the cost, loses
    another digit in float32. ``dtype`` is that of the steps and of the result (None: of x); a
    memory that is stepped with it may do with bfloat16, as Muon does.

    Source: arXiv 2512.24695, Eq 42-44; coefficients of Muon, as the paper names none. Deviates: Eq
    44 as printed is one step of size zeta on |O - g|^2 / 2 + |O^T O - I|^2 / 2, not on Eq 43.
    Cost: two products of the size of x and one of the shorter side's a step.

    >>> newton_schulz(torch.diag(torch.tensor([1.0, 0.1, 0.0]))).diag().round(decimals=2)
    tensor([0.7000, 0.7100, 0.0000])
    """
    length = torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True)
    scale = (length.square() + smallest**2).rsqrt()
    shape, dtype = x.shape, dtype or x.dtype
    x = x.to(dtype).reshape(-1, *shape[-2:]) * scale.to(dtype).reshape(-1, 1, 1)
    tall = shape[-2] > shape[-1]
    a, b, c = coefficients
    for _ in range(steps):
        gram = torch.bmm(x.mT, x) if tall else torch.bmm(x, x.mT)
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        # not transposed and back: a transposed result makes all that follows it slow
        x = torch.baddbmm(x, *((x, polynomial) if tall else (polynomial, x)), beta=a)
    return x.reshape(shape)


def orthogonal(
    x: Float[Tensor, "B *S"], steps: int = 5, dtype: torch.dtype | None = None
) -> Float[Tensor, "B *S"]:
    """Newton-Schulz of every row of a batch; higher ranks are flattened to (first, others).

    ``dtype`` is of the products (None: of x); tensors wider than float32 keep their own. Of tensors
    spread over devices every device gathers the whole, computes the same and keeps its part.

    Cost: as ``newton_schulz``; spread, one gathering.

    >>> orthogonal(torch.ones(1, 4, 3, 2), dtype=torch.bfloat16).dtype
    torch.float32
    """
    whole_x = whole(x)
    if dtype is None or x.dtype == torch.float64:
        dtype = x.dtype
    found = newton_schulz(whole_x.flatten(2), steps, dtype=dtype)
    return spread(found.view(whole_x.shape).to(x.dtype), x)


def matched(shape: Sequence[int]) -> float:
    """0.2 sqrt(max(p, q)): the root mean square of orthogonal p x q becomes AdamW's usual 0.2."""
    return 0.2 * math.sqrt(max(shape[0], math.prod(shape[1:])))


def whole(x: Tensor) -> Tensor:
    """Gather a tensor that is sharded over devices; any other is returned as is."""
    if plain(x):
        return x
    from torch.distributed.tensor import DTensor

    return x.full_tensor() if isinstance(x, DTensor) else x


def spread(x: Tensor, like: Tensor) -> Tensor:
    """Shard a replicated tensor in the same way as ``like``."""
    if plain(like):
        return x
    from torch.distributed.tensor import DTensor, Replicate

    if not isinstance(like, DTensor):
        return x
    mesh = like.device_mesh
    same = DTensor.from_local(x.contiguous(), mesh, [Replicate()] * mesh.ndim, run_check=False)
    return same.redistribute(mesh, like.placements)


def part(x: Tensor) -> Tensor:
    """The local shard of a sharded tensor; any other is returned as is."""
    if plain(x):
        return x.detach()
    from torch.distributed.tensor import DTensor

    with torch.no_grad():
        return x.to_local().detach() if isinstance(x, DTensor) else x.detach()
