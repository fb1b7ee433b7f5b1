"""Many gradients, momenta and weights at once, each read once (sweep.cpp); for the CPU."""

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nestling.core import native
from nestling.core.rule import SMALLEST

SUFFIX = {torch.float32: "float", torch.float64: "double"}
KINDS = ("unit", "soft", "clamp", "none")
FEW = 2**16  # numbers that are not worth a second thread
WIDEST = 2**18  # numbers of a row; a wider one is more than one thread's work
SCALARS = ("alpha", "eta", "sign", "kept", "lr", "smallest")
POINTERS = ("size", "width", "kind", "g", "m", "p", "squares")


class _Problem(ctypes.Structure):
    """As in sweep.cpp."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("count", "threads")),
        *((name, ctypes.c_double) for name in SCALARS),
        *((name, ctypes.c_void_p) for name in POINTERS),
    ]


def plain(x: Tensor) -> bool:
    """Whether a tensor is of no class that behaves in its own way, such as DTensor."""
    return type(x) in (Tensor, nn.Parameter)


def available() -> bool:
    """Whether the compiled form is there, now, and nothing is being traced."""
    traced = torch.compiler.is_compiling()
    return not traced and native.library(Path(__file__).parent, "sweep.cpp") is not None


def fits(first: Tensor, *others: Tensor) -> bool:
    """Whether the compiled form can compute with these tensors, which belong together."""
    return native.usable(first) and all(
        plain(x)
        and x.is_contiguous()
        and x.dtype == first.dtype
        and x.device == first.device
        and not x.is_inference()
        for x in (first, *others)
    )


def squares(gradients: Sequence[Tensor]) -> Tensor:
    """The sum of squares of each of these gradients, all of one dtype, held in float64."""
    found = torch.zeros(len(gradients), dtype=torch.float64)
    _call("look", found, gradients)
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
    """A step of delta momentum in rows of so many numbers each; 0: in the scalar layout.

    Rows: m <- alpha m - k (m.g) g + g; scalar: m <- (alpha - k |g|^2) m + g, |g|^2 from
    ``squares``; then W <- kept W - lr m. ``kinds`` says what bounds k; ``maximize`` turns g round.
    All tensors have one dtype.
    """
    lists = {"m": m, "p": parameters}
    _call(
        "write",
        squares,
        g,
        lists,
        {"width": widths, "kind": [KINDS.index(kind) for kind in kinds]},
        alpha=alpha,
        eta=eta,
        sign=-1.0 if maximize else 1.0,
        kept=kept,
        lr=lr,
        smallest=SMALLEST**2,
    )
    torch.autograd.graph.increment_version([*parameters, *m])


def _call(
    work: str,
    squares: Tensor,
    g: Sequence[Tensor],
    lists: dict[str, Sequence[Tensor]] | None = None,
    numbers: dict[str, Sequence[int]] | None = None,
    **scalars: float,
) -> None:
    found = native.library(Path(__file__).parent, "sweep.cpp")
    sizes = [x.numel() for x in g]
    few = sum(sizes) <= FEW
    problem = _Problem(count=len(g), threads=1 if few else torch.get_num_threads(), **scalars)
    kept: list[Any] = []  # what the problem points to
    for name, values in {"size": sizes, **(numbers or {})}.items():
        kept.append((ctypes.c_int64 * len(g))(*values))
        setattr(problem, name, ctypes.addressof(kept[-1]))
    for name, tensors in {"g": g, **(lists or {})}.items():
        kept.append((ctypes.c_void_p * len(g))(*(x.data_ptr() for x in tensors)))
        setattr(problem, name, ctypes.addressof(kept[-1]))
    problem.squares = squares.data_ptr()
    getattr(found, f"sweep_{work}_{SUFFIX[g[0].dtype]}")(ctypes.byref(problem))
