"""The scan of self-modifying Titans over whole rows, compiled for the CPU where that is possible.

It computes what nestling/memories/self_titans computes segment by segment, with its gradients:
each core takes a row and a head through the whole sequence, with all that it needs in its cache.
The backward pass computes each segment again from a state kept on the way, so that a sequence costs
little more memory than its inputs.
"""

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from nestling.core import native
from nestling.ops.self_titans.cuts import Cuts as Cuts
from nestling.ops.self_titans.cuts import cut as cut

HERE = Path(__file__).parent
TOKENS = 32  # of a segment at most, in the kernel
LONGEST = 4096  # tokens of a period; the backward pass holds the states of a whole one
SUFFIX = {torch.float32: "float", torch.float64: "double"}
# bytes kept for the backward pass over bytes of q, k and v: more is faster, up to a state a segment
KEPT = 3.0
PAIRS = ("anchor", "weight", "momentum")


def group_of(width: int, hidden: int, memories: int) -> int:
    """Segments between two states kept for the backward pass, after KEPT.

    What lies between is computed once more, which costs no more than the fresh pages that keeping
    it takes.

    >>> group_of(64, 64, 5)
    4
    """
    state = 4 * memories * width * hidden
    return max(1, round(state / (KEPT * 3 * width * TOKENS)))


class Options(NamedTuple):
    """What the kernel leaves to choose."""

    epsilon: float
    clip: float  # largest length of an output gradient of the last memory
    projection_clip: float  # the same of the others
    eta_max: float
    dot: bool  # the objective is the dot product, not the squared error


INTEGERS = ("batch", "heads", "memories", "width", "hidden", "length")
INTEGERS += ("stride_batch", "stride_head", "stride_token", "groups", "threads", "dot")
POINTERS = ("rows", "begin", "count", "flags", "closes", "q", "k", "v", "mu", "first", "second")
POINTERS += ("eta_weight", "eta_bias", "alpha_weight", "alpha_bias")
POINTERS += tuple(f"{name}_{i}" for name in PAIRS for i in (0, 1))
POINTERS += tuple(f"{name}_out_{i}" for name in PAIRS for i in (0, 1))
POINTERS += ("y", "kept", "dy")
POINTERS += tuple(f"d_{name}_out_{i}" for name in PAIRS for i in (0, 1))
POINTERS += ("dq", "dk", "dv", "dmu", "d_first", "d_second")
POINTERS += ("d_eta_weight", "d_eta_bias", "d_alpha_weight", "d_alpha_bias")
POINTERS += tuple(f"d_{name}_{i}" for name in PAIRS for i in (0, 1))


class _Problem(ctypes.Structure):
    """As in problem.h."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in INTEGERS),
        *((name, ctypes.c_double) for name in ("epsilon", "clip", "projection_clip", "eta_max")),
        *((name, ctypes.c_void_p) for name in POINTERS),
    ]


def kernel() -> ctypes.CDLL | None:
    """The compiled kernel; None where there is none."""
    found = native.library(HERE, "kernel.cpp")
    if found is not None:
        found.self_titans_problem_bytes.restype = ctypes.c_int64
        assert found.self_titans_problem_bytes() == ctypes.sizeof(_Problem)
    return found


def available(x: Tensor) -> bool:
    """Whether ``scan`` can compute in x's type and place, now."""
    return native.usable(x) and kernel() is not None


def _call(
    direction: str,
    projected: Float[Tensor, "B T 3 H D"],
    tensors: dict[str, Tensor | None],
    cuts: Cuts,
    options: Options,
) -> None:
    """Fill in a _Problem and run it; what is None stays a null pointer."""
    first, d_projected = tensors["first"], tensors.pop("d_projected", None)
    assert first is not None
    batch, length, _, heads, width = projected.shape
    token = 3 * heads * width
    problem = _Problem(
        batch=batch,
        heads=heads,
        memories=first.shape[1],
        width=width,
        hidden=first.shape[2],
        length=length,
        stride_batch=length * token,
        stride_head=width,
        stride_token=token,
        groups=cuts.groups,
        threads=torch.get_num_threads(),
        dot=int(options.dot),
        epsilon=options.epsilon,
        clip=options.clip,
        projection_clip=options.projection_clip,
        eta_max=options.eta_max,
    )
    # q, k and v lie side by side in one tensor
    for prefix, joined in (("", projected), ("d", d_projected)):
        for place, part in enumerate(() if joined is None else joined.unbind(2)):
            setattr(problem, prefix + "qkv"[place], part.data_ptr())
    given = {**tensors, **{name: getattr(cuts, name) for name in CUTS}}
    for name, tensor in given.items():
        if tensor is not None:
            assert tensor.is_contiguous(), name
            setattr(problem, name, tensor.data_ptr())
    found = kernel()
    assert found is not None and projected.is_contiguous()
    getattr(found, f"self_titans_{direction}_{SUFFIX[projected.dtype]}")(ctypes.byref(problem))


PARAMETERS = ("mu", "first", "second", "eta_weight", "eta_bias", "alpha_weight", "alpha_bias")
STATE = tuple(f"{name}_{i}" for name in PAIRS for i in (0, 1))
CUTS = ("rows", "begin", "count", "flags", "closes")


def _after(name: str) -> str:
    """The name of a tensor of the state that goes out."""
    return f"{name[:-2]}_out{name[-2:]}"


class _Scan(torch.autograd.Function):
    """All segments of all rows; the tensors are projected, PARAMETERS and STATE."""

    @staticmethod
    def forward(ctx: Any, cuts: Cuts, options: Options, *inputs: Tensor):
        projected, *rest = inputs
        tensors = dict(zip(PARAMETERS + STATE, rest, strict=True))
        batch, length, _, heads, width = projected.shape
        out = {_after(name): torch.empty_like(tensors[name]) for name in STATE}
        y = projected.new_zeros(batch, length, heads, width)
        kept = None
        if any(ctx.needs_input_grad):
            size = 2 * (tensors["first"][0].numel() + tensors["second"][0].numel())
            kept = projected.new_empty(batch, heads, cuts.groups, size)
            ctx.save_for_backward(*inputs, kept)
        made = {**out, "y": y, "kept": kept}
        _call("forward", projected, {**tensors, **made}, cuts, options)
        ctx.cuts, ctx.options = cuts, options
        ctx.set_materialize_grads(False)
        return (y, *out.values())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor | None, *grads: Tensor | None):
        projected, *rest, kept = ctx.saved_tensors
        tensors = dict(zip(PARAMETERS + STATE, rest, strict=True))
        batch, length, _, heads, width = projected.shape
        made = {"d_projected": torch.zeros_like(projected), "dmu": torch.zeros_like(tensors["mu"])}
        for name in PARAMETERS[1:]:
            made["d_" + name] = tensors[name].new_zeros(batch, *tensors[name].shape)
        wanted = ctx.needs_input_grad[-len(STATE) :]
        for name, needs in zip(STATE, wanted, strict=True):
            if needs:
                made["d_" + name] = torch.empty_like(tensors[name])
        given = {"kept": kept, "dy": dy if dy is not None else projected.new_zeros(1)}
        given["dy"] = given["dy"].expand(batch, length, heads, width).contiguous()
        of_state = {n: grad for n, grad in zip(STATE, grads, strict=True) if grad is not None}
        for name in PAIRS:  # the gradients of both layers, or none
            layers = [name + end for end in ("_0", "_1")]
            if any(layer in of_state for layer in layers):
                for layer in layers:
                    grad = of_state.get(layer)
                    zero = torch.zeros_like(tensors[layer])
                    given["d_" + _after(layer)] = zero if grad is None else grad.contiguous()
        _call("backward", projected, {**tensors, **given, **made}, ctx.cuts, ctx.options)
        parameters = (made["d_" + name].sum(0) for name in PARAMETERS[1:])
        states = (made.get("d_" + name) for name in STATE)
        return None, None, made["d_projected"], made["dmu"], *parameters, *states


def scan(
    projected: Float[Tensor, "B T 3 H D"],
    mu: Float[Tensor, "B T H"],
    initial: Sequence[Float[Tensor, "H M _ _"]],
    rates: Sequence[Tensor],
    state: Sequence[Float[Tensor, "B H M _ _"]],
    *,
    cuts: Cuts,
    options: Options,
) -> tuple[Float[Tensor, "B T H D"], tuple[Tensor, ...]]:
    """Read and write along every row: outputs, and the state after the last token.

    ``projected`` holds q, k and v before they are made unit; ``initial`` are the learned starts of
    both layers, [H, M, E, D] and [H, M, D, E]; ``rates`` are weight [H, D] and bias [H] of the
    read-outs of eta, then of alpha; ``state`` is anchor, running weight and momentum, two layers
    each, as deviations from ``initial``. Equations and options are those of SelfTitans, with two
    layers, momentum, the eraser of deviations, decay to the learned start and reads after the
    write; one period for all memories.

    Source: arXiv 2512.24695, Eq 83-93 as in nestling/memories/self_titans/memory.py. Deviates:
    nothing. Cost: time O(M d d_h) a token and head, three times forward in the backward pass;
    memory beside inputs and outputs: one state for each group of segments.
    """
    given = (projected, mu, *initial, *rates, *state)
    y, *after = _Scan.apply(cuts, options, *(x.contiguous() for x in given))
    return y, tuple(after)
