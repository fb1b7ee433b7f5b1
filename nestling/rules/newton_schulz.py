"""Newton-Schulz: the nearest orthogonal matrix, from matrix products only."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from nestling.core.native import plain

# X <- a X + (b A + c A^2) X with A = X X^T: Muon's coefficients, for singular values of 0.7 .. 1.2
QUINTIC = (3.4445, -4.7750, 2.0315)
CUBIC = (1.5, -0.5, 0.0)
SMALLEST = 1e-7  # matrices with a norm below this are treated as zero


def newton_schulz(
    x: Float[Tensor, "*N p q"],
    steps: int = 5,
    *,
    coefficients: tuple[float, float, float] = QUINTIC,
    dtype: torch.dtype | None = None,
    smallest: float = SMALLEST,
) -> Float[Tensor, "*N p q"]:
    """Drive the singular values of x towards 1; zero singular values stay zero.

    x is first divided by sqrt(|x|^2 + smallest^2). Each step is X <- a X + (b A + c A^2) X with
    A = X X^T; for a tall x, X <- a X + X (b A + c A^2) with A = X^T X. Small singular values, and
    their rounding errors, grow up to a^steps times. (Combining the polynomials of A first would
    halve the cost, but loses another digit in float32.) ``dtype`` is that of the steps and of the
    result (None: that of x); bfloat16 is enough for optimizer steps, as in Muon.

    Source: arXiv 2512.24695, Eq 42-44; the coefficients are Muon's, as the paper gives none.
    Deviates: Eq 44 as printed is one step of size zeta on |O - g|^2 / 2 + |O^T O - I|^2 / 2, not on
    Eq 43. Cost: per step, two products of the size of x and one of its shorter side.

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
        # no transposing back and forth: a transposed result slows down everything after it
        x = torch.baddbmm(x, *((x, polynomial) if tall else (polynomial, x)), beta=a)
    return x.reshape(shape)


def orthogonal(
    x: Float[Tensor, "B *S"], steps: int = 5, dtype: torch.dtype | None = None
) -> Float[Tensor, "B *S"]:
    """Newton-Schulz for every row of a batch; higher ranks are flattened to (first, others).

    ``dtype`` is that of the products (None: that of x); tensors wider than float32 keep theirs.
    Sharded tensors are gathered on every device, which computes the whole and keeps its shard.

    Cost: as ``newton_schulz``, plus one all-gather if sharded.

    >>> orthogonal(torch.ones(1, 4, 3, 2), dtype=torch.bfloat16).dtype
    torch.float32
    """
    whole_x = whole(x)
    if dtype is None or x.dtype == torch.float64:
        dtype = x.dtype
    found = newton_schulz(whole_x.flatten(2), steps, dtype=dtype)
    return spread(found.view(whole_x.shape).to(x.dtype), x)


def matched(shape: Sequence[int]) -> float:
    """0.2 sqrt(max(p, q)), which scales an orthogonal p x q to AdamW's usual RMS of 0.2."""
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
