"""The scan of self-modifying Titans over whole rows, compiled for the CPU if there is a compiler.

It computes the same outputs and gradients as nestling/memories/self_titans, which works segment by
segment in torch. Each core takes one row and head through the whole sequence, with its working set
in the cache. The backward pass recomputes each segment from a checkpointed state, so a sequence
needs little more memory than its inputs.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from nestling.core.bridge import Bridge
from nestling.core.error import UserError
from nestling.core.gradient import once
from nestling.ops.self_titans.cuts import Cuts as Cuts
from nestling.ops.self_titans.cuts import cut as cut

TOKENS = 32  # in a segment, at most
LONGEST = 4096  # tokens in a period, at most; the backward pass holds the states of a whole one
MEMORIES = 5  # for k, eta, alpha and v, and the one that is read
# checkpoint bytes relative to those of q, k and v; more is faster, up to one state per segment
KEPT = 3.0
PAIRS = ("anchor", "weight", "momentum")
STATE = tuple(f"{name}_{i}" for name in PAIRS for i in (0, 1))
LAYERS = ("memories hidden width", "memories width hidden")
PARAMETERS = {
    "first": f"heads {LAYERS[0]}",
    "second": f"heads {LAYERS[1]}",
    "eta_weight": "heads width",
    "eta_bias": "heads",
    "alpha_weight": "heads width",
    "alpha_bias": "heads",
}


NAMES = ("projected", "mu", *PARAMETERS, *STATE)


def state_arrays(name: str, prefix: str = "") -> dict[str, str]:
    """The arrays of both layers of an anchor, weight or momentum; with prefix "?" optional."""
    return {f"{name}_{i}": f"{prefix}batch heads {LAYERS[i]}" for i in (0, 1)}


def _states(name: str, prefix: str = "") -> dict[str, str]:
    return {n: x for pair in PAIRS for n, x in state_arrays(name.format(pair), prefix).items()}


KERNEL = Bridge(
    Path(__file__).parent / "kernel.cpp",
    "self_titans",
    version=2,
    tokens=TOKENS,
    integers="batch heads memories width hidden length groups threads dot",
    numbers="epsilon clip projection_clip eta_max",
    inputs={
        "rows": "int64: batch+1",
        "begin": "int64: segments",
        "count": "int64: segments",
        "flags": "int64: segments",
        "closes": "int64: batch",
        "projected": "batch length 3 heads width",
        "mu": "batch length heads",
        **PARAMETERS,
        **_states("{}"),
    },
    works={
        "forward": {
            **_states("{}_out"),
            "y": "batch length heads width",
            "kept": "?batch heads groups state",
        },
        "backward": {
            "kept": "batch heads groups state",
            "dy": "batch length heads width",
            **_states("d_{}_out", "?"),
            "d_projected": "batch length 3 heads width",
            "dmu": "batch length heads",
            **{f"d_{name}": f"batch {sizes}" for name, sizes in PARAMETERS.items()},
            **_states("d_{}", "?"),
        },
    },
)
available = KERNEL.available


def group_of(width: int, hidden: int, memories: int) -> int:
    """The number of segments between two checkpointed states, from KEPT.

    Recomputing the segments between costs no more than the page faults of storing their states.

    >>> group_of(64, 64, 5)
    4
    """
    state = 4 * memories * width * hidden
    return max(1, round(state / (KEPT * 3 * width * TOKENS)))


class Options(NamedTuple):
    """The options of the kernel."""

    epsilon: float
    clip: float  # maximum norm of the output gradient of the memory that is read
    projection_clip: float  # the same for the other memories
    eta_max: float
    dot: bool  # objective: the dot product instead of the squared error


def named_arguments(
    projected: Tensor,
    mu: Tensor,
    initial: Sequence[Tensor],
    rates: Sequence[Tensor],
    state: Sequence[Tensor],
) -> dict[str, Tensor]:
    """The arguments of a kernel by name. Raises UserError for unsupported numbers or shapes."""
    for name, given, wanted in (("rates", rates, 4), ("state", state, len(STATE))):
        if len(given) != wanted:
            raise UserError(f"{name} has {len(given)} tensors; expected {wanted}")
    shapes = [list(x.shape) for x in initial]
    if [len(x) for x in shapes] != [4, 4] or shapes[0][1] != MEMORIES:
        raise UserError(
            f"initial has the shapes {shapes}; expected [H, M, E, D] and [H, M, D, E] with "
            f"M = {MEMORIES} memories"
        )
    return dict(zip(NAMES, (projected, mu, *initial, *rates, *state), strict=True))


def numbers_of(options: Options) -> dict[str, float]:
    """The floating-point options of a kernel."""
    return {name: x for name, x in options._asdict().items() if name != "dot"}


def _call(work: str, tensors: Mapping[str, Tensor | None], cuts: Cuts, options: Options) -> None:
    first = tensors["first"]
    assert first is not None
    sizes = {"length": cuts.length, "groups": cuts.groups, "state": 4 * first[0].numel()}
    numbers, dot = numbers_of(options), int(options.dot)
    KERNEL.call(work, first.dtype, {**cuts.arrays(), **tensors}, numbers=numbers, dot=dot, **sizes)


def _after(name: str) -> str:
    """The name of the output for a tensor of the state."""
    return f"{name[:-2]}_out{name[-2:]}"


class _Scan(torch.autograd.Function):
    """The scan of all segments of all rows; the tensors are those of NAMES."""

    @staticmethod
    def forward(ctx: Any, cuts: Cuts, options: Options, *inputs: Tensor):
        tensors = dict(zip(NAMES, inputs, strict=True))
        projected = inputs[0]
        batch, length, _, heads, width = projected.shape
        out = {_after(name): torch.empty_like(tensors[name]) for name in STATE}
        y = projected.new_zeros(batch, length, heads, width)
        kept = None
        if any(ctx.needs_input_grad):
            size = 4 * tensors["first"][0].numel()
            kept = projected.new_empty(batch, heads, cuts.groups, size)
            ctx.save_for_backward(*inputs, kept)
        _call("forward", {**tensors, **out, "y": y, "kept": kept}, cuts, options)
        ctx.cuts, ctx.options = cuts, options
        ctx.set_materialize_grads(False)
        return (y, *out.values())

    @staticmethod
    @once("the compiled scan of self_titans", "NESTLING_NATIVE=0 uses the torch implementation")
    def backward(ctx: Any, *grads: Any):
        dy, *of_state = grads
        *inputs, kept = ctx.saved_tensors
        tensors = dict(zip(NAMES, inputs, strict=True))
        projected = inputs[0]
        batch, length, _, heads, width = projected.shape
        made = {"d_projected": torch.zeros_like(projected), "dmu": torch.zeros_like(tensors["mu"])}
        for name in PARAMETERS:
            made["d_" + name] = tensors[name].new_zeros(batch, *tensors[name].shape)
        given = {"kept": kept, "dy": dy if dy is not None else projected.new_zeros(1)}
        given["dy"] = given["dy"].expand(batch, length, heads, width).contiguous()
        come = dict(zip(STATE, of_state, strict=True))
        wanted = dict(zip(STATE, ctx.needs_input_grad[-len(STATE) :], strict=True))
        for pair in PAIRS:  # both layers, or none
            layers = [f"{pair}_{i}" for i in (0, 1)]
            if any(wanted[layer] for layer in layers):
                made |= {f"d_{layer}": torch.empty_like(tensors[layer]) for layer in layers}
            if any(come[layer] is not None for layer in layers):
                for layer in layers:
                    grad = come[layer]
                    zero = torch.zeros_like(tensors[layer])
                    given["d_" + _after(layer)] = zero if grad is None else grad.contiguous()
        _call("backward", {**tensors, **given, **made}, ctx.cuts, ctx.options)
        parameters = (made["d_" + name].sum(0) for name in PARAMETERS)
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
    """Read and write along every row. Returns the outputs and the state after the last token.

    ``projected`` holds q, k and v before normalisation; ``initial`` are the learned initial weights
    of both layers, [H, M, E, D] and [H, M, D, E]; ``rates`` are weight [H, D] and bias [H] of the
    projections to eta, then to alpha; ``state`` is anchor, running weight and momentum, two layers
    each, as deviations from ``initial``. The equations are those of SelfTitans with two layers,
    momentum, an eraser of deviations, decay to the learned initial weights, reads after the write,
    and one period for all memories.

    Source: arXiv 2512.24695, Eq 83-93 as in nestling/memories/self_titans/memory.py. Deviates:
    nothing. Cost: time O(M d d_h) per token and head, the backward pass three times the forward
    pass; memory beside inputs and outputs: one state per group of segments.

    Raises UserError for wrong shapes, dtypes or devices, or cuts of another batch.
    """
    given = named_arguments(projected, mu, initial, rates, state)
    KERNEL.verify({**cuts.arrays(), **given}, length=cuts.length)
    if cuts.longest > TOKENS or cuts.period > LONGEST:
        raise UserError(
            f"segments have {cuts.longest} tokens and periods {cuts.period}; the kernel takes at "
            f"most {TOKENS} and {LONGEST}"
        )
    y, *after = _Scan.apply(cuts, options, *(x.contiguous() for x in given.values()))
    return y, tuple(after)
