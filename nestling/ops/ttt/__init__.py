"""The scan of test-time training over whole rows, compiled for the CPU if there is a compiler.

It computes the same outputs and gradients as nestling/memories/ttt, which works mini-batch by
mini-batch in torch. Each core takes one row and head through the whole sequence, with the inner
model in its cache. The backward pass recomputes each mini-batch from a checkpointed inner model.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from nestling.core.bridge import Bridge
from nestling.core.error import UserError
from nestling.core.gradient import once
from nestling.ops.self_titans.cuts import Cuts

TOKENS = 16  # in a segment, at most
# segments between two checkpointed inner models; those between are recomputed in the backward pass
GROUP = 8
TENSORS = ("qk", "v", "eta", "c", "scale", "shift", "initial", "anchor", "total")
TOKEN, MODEL = "batch length heads", "batch heads size"
KERNEL = Bridge(
    Path(__file__).parent / "kernel.cpp",
    "ttt",
    version=1,
    tokens=TOKENS,
    integers="batch heads width hidden size length period groups threads",
    numbers="epsilon",
    inputs={
        "rows": "int64: batch+1",
        "begin": "int64: segments",
        "count": "int64: segments",
        "flags": "int64: segments",
        "seen": "int64: batch",
        "qk": "batch length 2 heads width",
        "v": f"{TOKEN} width",
        "eta": TOKEN,
        "c": "period",
        "cos": "period half",
        "sin": "period half",
        "scale": "heads width",
        "shift": "heads width",
        "initial": "heads size",
        "anchor": MODEL,
        "total": MODEL,
    },
    works={
        "forward": {
            "anchor_out": MODEL,
            "total_out": MODEL,
            "y": f"{TOKEN} width",
            "kept": "?batch heads groups size",
        },
        "backward": {
            "kept": "batch heads groups size",
            "dy": f"{TOKEN} width",
            "d_anchor_out": f"?{MODEL}",
            "d_total_out": f"?{MODEL}",
            "dqk": "batch length 2 heads width",
            "dv": f"{TOKEN} width",
            "d_eta": TOKEN,
            "dc": "batch heads period",
            "d_scale": "batch heads width",
            "d_shift": "batch heads width",
            "d_initial": MODEL,
            "d_anchor": MODEL,
            "d_total": MODEL,
        },
    },
)
available = KERNEL.available


class Setting(NamedTuple):
    """The arguments that are not differentiated."""

    cuts: Cuts  # from nestling/ops/self_titans/cuts.py:cut, with a mini-batch as the period
    cos: Float[Tensor, "N K2"]  # of the angles that rotate q and k, by place in the mini-batch
    sin: Float[Tensor, "N K2"]
    hidden: int  # width of the hidden layer; 0 for a linear model
    epsilon: float


def _given(setting: Setting, tensors: Mapping[str, Tensor | None]) -> dict[str, Tensor | None]:
    """All arrays of a kernel call."""
    cuts = setting.cuts
    arrays = {name: x for name, x in cuts.arrays().items() if name != "closes"}
    return {**arrays, "seen": cuts.before, "cos": setting.cos, "sin": setting.sin, **tensors}


def _sizes(setting: Setting, v: Tensor) -> dict[str, int]:
    """The sizes that the tensors of a call must have."""
    cuts, hidden, width = (
        setting.cuts,
        setting.hidden,
        v.shape[-1] if isinstance(v, Tensor) and v.ndim else 0,
    )
    if cuts.longest > TOKENS or hidden < 0 or width % 2:
        raise UserError(
            f"ttt: segments have {cuts.longest} tokens, the hidden layer {hidden} units and heads "
            f"{width}; the kernel takes at most {TOKENS} tokens and an even width of heads"
        )
    size = 2 * width * hidden + hidden + width if hidden else width * width + width
    sizes = {"length": cuts.length, "period": cuts.period, "groups": cuts.groups}
    return {**sizes, "hidden": hidden, "size": size, "half": width // 2}


def _call(work: str, setting: Setting, tensors: dict[str, Tensor | None]) -> None:
    v = tensors["v"]
    assert v is not None
    every, numbers = _given(setting, tensors), {"epsilon": setting.epsilon}
    KERNEL.call(work, v.dtype, every, numbers=numbers, **_sizes(setting, v))


class _Scan(torch.autograd.Function):
    """The scan of all mini-batches of all rows; the tensors are TENSORS."""

    @staticmethod
    def forward(ctx: Any, setting: Setting, *inputs: Tensor):
        given: dict[str, Tensor | None] = dict(zip(TENSORS, inputs, strict=True))
        v, anchor, total = inputs[1], inputs[7], inputs[8]
        y = torch.zeros_like(v)
        after = torch.empty_like(anchor), torch.empty_like(total)
        kept = None
        if any(ctx.needs_input_grad):
            batch, heads, size = anchor.shape
            kept = anchor.new_empty(batch, heads, setting.cuts.groups, size)
            ctx.save_for_backward(*inputs, kept)
        made = {"y": y, "anchor_out": after[0], "total_out": after[1], "kept": kept}
        _call("forward", setting, {**given, **made})
        ctx.setting = setting
        ctx.set_materialize_grads(False)
        return y, *after

    @staticmethod
    @once(
        "the compiled scan of test-time training", "NESTLING_NATIVE=0 uses the torch implementation"
    )
    def backward(ctx: Any, *grads: Any):
        dy, *d_after = grads
        *inputs, kept = ctx.saved_tensors
        qk, v, eta, c, scale, _, _, anchor, total = inputs
        dy = torch.zeros_like(v) if dy is None else dy.contiguous()
        given: dict[str, Tensor | None] = dict(zip(TENSORS, inputs, strict=True))
        given |= {"kept": kept, "dy": dy}
        for name, grad in zip(("d_anchor_out", "d_total_out"), d_after, strict=True):
            given[name] = None if grad is None else grad.contiguous()
        made = {"dqk": torch.zeros_like(qk), "dv": torch.zeros_like(v)}
        made |= {"d_eta": torch.zeros_like(eta)}
        shape = anchor.shape[:2]
        # per row and head, summed below
        sums = {"dc": c.new_zeros(*shape, len(c)), "d_scale": scale.new_zeros(*shape, v.shape[-1])}
        sums |= {"d_shift": torch.zeros_like(sums["d_scale"])}
        sums |= {"d_initial": torch.zeros_like(anchor)}
        state = {"d_anchor": torch.empty_like(anchor), "d_total": torch.empty_like(total)}
        _call("backward", ctx.setting, {**given, **made, **sums, **state})
        parameters = sums.pop("dc").sum((0, 1)), *(x.sum(0) for x in sums.values())
        return None, *made.values(), *parameters, *state.values()


def scan(
    qk: Float[Tensor, "B T 2 H K"],
    v: Float[Tensor, "B T H K"],
    eta: Float[Tensor, "B T H"],
    c: Float[Tensor, " N"],
    norm: tuple[Float[Tensor, "H K"], Float[Tensor, "H K"]],
    initial: Float[Tensor, "H P"],
    state: tuple[Float[Tensor, "B H P"], Float[Tensor, "B H P"]],
    *,
    setting: Setting,
) -> tuple[Float[Tensor, "B T H K"], Float[Tensor, "B H P"], Float[Tensor, "B H P"]]:
    """Train on every token and read. Returns the outputs and the state after the last token.

    ``qk`` holds queries and keys before rotation, ``norm`` scale and shift of the inner layer norm,
    ``c`` the factor of the summed gradients by place in the mini-batch. ``initial`` and ``state``
    (the model at the start of the mini-batch, and its gradients so far) are flat inner models:
    weight and bias of the first layer, then of the second. Each document starts from ``initial``;
    masked positions read zero.

    Source: arXiv 2407.04620, sections 2.3-2.7 as in nestling/memories/ttt/base.py. Deviates:
    nothing. Cost: time O(P + K N) per token and head, the backward pass four times the forward
    pass; memory beside inputs and outputs: one inner model per group of mini-batches.

    Raises UserError for wrong shapes, dtypes or devices, or cuts of another batch.
    """
    given = (qk, v, eta, c, *norm, initial, *state)
    named = dict(zip(TENSORS, given, strict=True))
    KERNEL.verify(_given(setting, named), **_sizes(setting, v))
    return _Scan.apply(setting, *(x.contiguous() for x in given))
