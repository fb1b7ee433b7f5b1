"""Delta momentum of many tensors in one pass over each, compiled for the CPU (sweep.cpp)."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from nestling.core import native
from nestling.core.bridge import COLUMN, Bridge
from nestling.core.error import UserError
from nestling.core.native import plain
from nestling.rules.delta_momentum import BOUNDS as KINDS
from nestling.rules.newton_schulz import SMALLEST

FEW = 2**16  # elements; fewer are not worth a second thread
WIDEST = 2**18  # elements of a row; a wider one is too much work for one thread
KERNEL = Bridge(
    Path(__file__).parent / "sweep.cpp",
    "sweep",
    version=1,
    integers="count threads",
    numbers="alpha eta sign kept lr smallest",
    inputs={"size": COLUMN, "g": COLUMN, "squares": "float64: count"},
    works={"look": {}, "write": {"width": COLUMN, "kind": COLUMN, "m": COLUMN, "p": COLUMN}},
)


def available() -> bool:
    """Whether the compiled code is available and nothing is being traced."""
    return not torch.compiler.is_compiling() and KERNEL.library() is not None


def fits(first: Tensor, *others: Tensor) -> bool:
    """Whether the compiled code supports these tensors of one parameter."""
    return native.usable(first) and all(
        plain(x)
        and x.is_contiguous()
        and x.dtype == first.dtype
        and x.is_cpu
        and not x.is_inference()
        for x in (first, *others)
    )


def squares(gradients: Sequence[Tensor]) -> Tensor:
    """The sum of squares of each of these gradients (all of one dtype), in float64."""
    found, dtype = torch.zeros(len(gradients), dtype=torch.float64), _dtype(gradients)
    columns = KERNEL.tensors(dtype, g=gradients) | KERNEL.whole(size=_sizes(gradients))
    given = {**columns, "squares": found}
    KERNEL.call("look", dtype, given, count=len(gradients), threads=_threads(gradients))
    return found


def write(
    parameters: Sequence[Tensor],
    m: Sequence[Tensor],
    g: Sequence[Tensor],
    *,
    widths: Sequence[int],
    kinds: Sequence[str],
    squares: Tensor,
    alpha: float | int,
    eta: float | int,
    lr: float,
    kept: float,
    maximize: bool,
) -> None:
    """A step of delta momentum in rows of ``widths`` elements; 0: in the scalar layout.

    Rows: m <- alpha m - k (m.g) g + g; scalar: m <- (alpha - k |g|^2) m + g, |g|^2 from
    ``squares``; then W <- kept W - lr m. ``kinds`` says how k is bounded; ``maximize`` negates g.
    All tensors have one dtype.
    """
    sizes, dtype = _sizes(g), _dtype(g)
    if len(widths) != len(sizes) or any(w and n % w for n, w in zip(sizes, widths, strict=True)):
        raise UserError(f"tensors of {sizes} numbers do not split into rows of {list(widths)}")
    columns = KERNEL.tensors(dtype, p=parameters, g=g, m=m)
    columns |= KERNEL.whole(size=sizes, width=widths, kind=[KINDS.index(kind) for kind in kinds])
    KERNEL.call(
        "write",
        dtype,
        {**columns, "squares": squares},
        numbers={
            "alpha": alpha,
            "eta": eta,
            "sign": -1.0 if maximize else 1.0,
            "kept": kept,
            "lr": lr,
            "smallest": SMALLEST**2,
        },
        count=len(g),
        threads=_threads(g),
    )
    torch.autograd.graph.increment_version([*parameters, *m])


def _dtype(tensors: Sequence[Tensor]) -> torch.dtype:
    return tensors[0].dtype if tensors else torch.float32


def _sizes(tensors: Sequence[Tensor]) -> list[int]:
    return [x.numel() for x in tensors]


def _threads(g: Sequence[Tensor]) -> int:
    return 1 if sum(_sizes(g)) <= FEW else torch.get_num_threads()
