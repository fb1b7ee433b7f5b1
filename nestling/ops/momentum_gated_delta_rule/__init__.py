"""Decay, eraser and momentum in one recurrence: the kernel of every delta-rule memory."""

from functools import partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from nestling.core.error import UserError
from nestling.core.op import Op
from nestling.core.shapes import checked
from nestling.ops.momentum_gated_delta_rule import compiled
from nestling.ops.momentum_gated_delta_rule.chunk import chunk as _chunk
from nestling.ops.momentum_gated_delta_rule.cover import covers
from nestling.ops.momentum_gated_delta_rule.inputs import inputs
from nestling.ops.momentum_gated_delta_rule.step import DeltaState as DeltaState
from nestling.ops.momentum_gated_delta_rule.step import step as _step
from nestling.ops.momentum_gated_delta_rule.tiling import chunk_for

CHUNK = 64  # tokens, on accelerators; tiling only


def initial_state(
    w: Float[Tensor, "B *T H V"],
    k: Float[Tensor, "B *T #H K"],
    initial: Float[Tensor, "*B H V K"] | None = None,
    **_: object,
) -> DeltaState:
    """The state before the first token: weight ``initial`` (zero if None), momentum zero."""
    zero = w.new_zeros(w.shape[0], w.shape[-2], w.shape[-1], k.shape[-1])
    return DeltaState(zero if initial is None else initial.expand_as(zero), zero)


@checked
def momentum_gated_delta_rule(
    q: Float[Tensor, "B T #H K"],
    k: Float[Tensor, "B T #H K"],
    w: Float[Tensor, "B T H V"],
    *,
    alpha: Float[Tensor, "B T H"],
    beta: Float[Tensor, "B T H"] | None = None,
    mu: Float[Tensor, "B T H"] | None = None,
    erase_key: Float[Tensor, "B T H K"] | None = None,
    state: DeltaState | None = None,
    initial: Float[Tensor, "*B H V K"] | None = None,
    read: str = "post",
    reset: Bool[Tensor, "B T"] | None = None,
    mask: Bool[Tensor, "B T"] | None = None,
    chunk_size: int | None = None,
    form: str | None = None,
) -> tuple[Float[Tensor, "B T H V"], DeltaState]:
    """Write along k, erase along k what erase_key reads, decay, and read with q.

    S_t = mu_t S_{t-1} + w_t k_t^T;  W_t = alpha_t W_{t-1} - beta_t (W_{t-1} p_t) k_t^T + S_t;
    y_t = W_t q_t (``read="post"``) or W_{t-1} q_t (``"pre"``), p = ``erase_key`` or k.

    ``w`` is the write, already scaled. With ``beta=None`` nothing is erased and no system is
    solved; with ``mu=None`` there is no momentum. q and k may have one head, shared by all heads
    of w. ``reset`` marks document starts: it sets the weight to ``initial`` (zero if None) and the
    momentum to zero. Positions where ``mask`` is False change nothing and read the unchanged state.
    ``chunk_size`` (tokens) is tiling and never changes the result; None chooses one by shape
    (tiling.py). The state is at least float32, and autocast is disabled inside; y has q's dtype.
    Stable if beta |k|^2 <= 1 + alpha. Differentiable in every tensor. ``form`` is the
    implementation: "chunk", "triton" (kernels, for the inputs listed in cover.py) or None, which
    uses the kernels on a CUDA device if Triton is installed and they cover the inputs, and the
    chunk form otherwise.

    Raises UserError for wrong shapes, dtypes or devices, an unknown ``read`` or ``form``, a
    ``chunk_size`` below 1, ``erase_key`` without ``beta``, and inputs that an explicit ``form``
    does not cover.

    Source: arXiv 2512.24695, Eq 88 and 90, with momentum as in Titans. Deviates: exact inside a
    chunk, where the paper freezes the state. Cost: see chunk.py; a single token uses step.py.

    >>> x = torch.ones(1, 3, 1, 1)
    >>> momentum_gated_delta_rule(x, x, x, alpha=torch.ones(1, 3, 1))[0].flatten().tolist()
    [1.0, 2.0, 3.0]
    """
    if read not in ("post", "pre"):
        raise UserError(f"read is {read!r}; give 'post' or 'pre'")
    if chunk_size is not None and chunk_size < 1:
        raise UserError(f"chunk_size is {chunk_size}; give at least 1 token")
    if erase_key is not None and beta is None:
        raise UserError("erase_key has no effect without beta; give beta, or leave erase_key out")
    tokens = {"q": q, "k": k, "w": w, "alpha": alpha}
    options = {"beta": beta, "mu": mu, "erase_key": erase_key}
    kernels = covers(form, tokens | options, initial, reset)
    dtype = torch.promote_types(q.dtype, torch.float32)

    with torch.autocast(q.device.type, enabled=False):
        initial = None if initial is None else initial.to(dtype)
        if state is None:
            state = initial_state(w.new_zeros((), dtype=dtype).expand_as(w), k, initial)
        state = DeltaState(state.weight.to(dtype), state.momentum.to(dtype))
        if not q.shape[1]:
            return q.new_zeros(w.shape), state
        flags = {"reset": reset, "mask": mask}
        if kernels and (form or q.shape[1] > 1):
            from nestling.ops.momentum_gated_delta_rule.triton import recurrence

            y, state = recurrence(
                **tokens,
                **options,
                **flags,
                state=state,
                read_at=read,
                chunk_size=chunk_size or CHUNK,
            )
            return y.to(q.dtype), state
        tokens = {name: x.to(dtype) for name, x in tokens.items()}
        options = {name: None if x is None else x.to(dtype) for name, x in options.items()}
        if q.shape[1] == 1:
            now = {n: x[:, 0] for n, x in tokens.items()}
            present = {n: x[:, 0] for n, x in (options | flags).items() if x is not None}
            y, state = _step(state, **now, **present, initial=initial, read=read)
            return y[:, None].to(q.dtype), state
        plain = mu is None and erase_key is None and initial is None and read == "post"
        if plain and chunk_size is None and compiled.available(tokens["w"]):
            y, weight = compiled.scan(
                **tokens, beta=options["beta"], weight=state.weight, reset=reset, mask=mask
            )
            momentum = state.momentum
            if reset is not None:
                gone = reset.any(1)[:, None, None, None]
                momentum = torch.where(gone, torch.zeros_like(momentum), momentum)
            return y.to(q.dtype), DeltaState(weight, momentum)
        size = chunk_size or _size_for(state, erases=beta is not None, momentum=mu is not None)
        y, state = _chunk(
            **tokens,
            **options,
            **flags,
            state=state,
            initial=initial,
            read_at=read,
            chunk_size=min(size, q.shape[1]),
        )
    return y.to(q.dtype), state


def _size_for(state: DeltaState, *, erases: bool, momentum: bool) -> int:
    if state.weight.device.type != "cpu":
        return CHUNK
    batch, heads, value, key = state.weight.shape
    return chunk_for(rows=batch * heads, key=key, value=value, erases=erases, momentum=momentum)


OP = Op(
    name="momentum_gated_delta_rule",
    init=initial_state,
    step=_step,
    chunk=partial(momentum_gated_delta_rule, form="chunk"),
    triton=partial(momentum_gated_delta_rule, form="triton"),
    inputs=inputs,
)
