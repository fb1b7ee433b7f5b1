"""One token of self-modifying Titans, compiled for the CPU: for decoding, without gradients."""

import ctypes
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from nestling.core import native
from nestling.ops.self_titans import SUFFIX, Options

HERE = Path(__file__).parent
INTEGERS = ("batch", "heads", "memories", "width", "hidden", "threads", "dot")
NUMBERS = ("epsilon", "clip", "projection_clip", "eta_max")
POINTERS = ("projected", "mu", "first", "second")
POINTERS += ("eta_weight", "eta_bias", "alpha_weight", "alpha_bias")
STATE = tuple(f"{name}_{i}" for name in ("anchor", "weight", "momentum") for i in (0, 1))
NEW = tuple(f"{name}_{i}" for name in ("weight_out", "momentum_out") for i in (0, 1))


class _Token(ctypes.Structure):
    """As in token.cpp."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in INTEGERS),
        *((name, ctypes.c_double) for name in NUMBERS),
        *((name, ctypes.c_void_p) for name in (*POINTERS, *STATE, *NEW, "y")),
    ]


def kernel() -> ctypes.CDLL | None:
    """The compiled step; None where there is none."""
    found = native.library(HERE, "token.cpp")
    if found is not None:
        found.self_titans_token_bytes.restype = ctypes.c_int64
        assert found.self_titans_token_bytes() == ctypes.sizeof(_Token)
    return found


def available(x: Tensor) -> bool:
    """Whether ``token`` can compute in x's type and place, now."""
    return not torch.is_grad_enabled() and native.usable(x) and kernel() is not None


def token(
    projected: Float[Tensor, "B 1 3 H D"],
    mu: Float[Tensor, "B 1 H"],
    initial: Sequence[Float[Tensor, "H M _ _"]],
    rates: Sequence[Tensor],
    state: Sequence[Float[Tensor, "B H M _ _"]],
    options: Options,
) -> tuple[Float[Tensor, "B 1 H D"], tuple[Float[Tensor, "B H M _ _"], ...]]:
    """The answer to one token of each row, and the new weights and momenta of both layers.

    ``projected`` holds q, k, v before they are made unit; ``rates`` the weights and biases of eta
    and alpha; ``state`` anchors, weights and momenta, deviations from ``initial``.

    Source and Deviates: as nestling/memories/self_titans/memory.py:SelfTitans.
    Cost: each of anchor, weight and momentum is read once, weight and momentum are written once.
    """
    found = kernel()
    assert found is not None
    batch, _, _, heads, width = projected.shape
    y = projected.new_empty(batch, 1, heads, width)
    new = tuple(torch.empty_like(x, memory_format=torch.contiguous_format) for x in state[2:])
    tensors = [x.contiguous() for x in (projected, mu, *initial, *rates, *state)]
    problem = _Token(
        batch=batch,
        heads=heads,
        memories=initial[0].shape[1],
        width=width,
        hidden=initial[0].shape[2],
        threads=torch.get_num_threads(),
        dot=int(options.dot),
        epsilon=options.epsilon,
        clip=options.clip,
        projection_clip=options.projection_clip,
        eta_max=options.eta_max,
    )
    for name, tensor in zip((*POINTERS, *STATE, *NEW, "y"), (*tensors, *new, y), strict=True):
        setattr(problem, name, tensor.data_ptr())
    getattr(found, f"self_titans_token_{SUFFIX[projected.dtype]}")(ctypes.byref(problem))
    return y, new
