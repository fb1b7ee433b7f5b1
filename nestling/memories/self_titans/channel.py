"""Write one layer of all memories with rates per row of the weight.

Each row Y is then a memory by itself, and all have the same inputs. Letters as in memory.py and
ops/momentum_gated_delta_rule/chunk.py.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from nestling.memories.self_titans.options import SelfTitansOptions
from nestling.ops.momentum_gated_delta_rule import DeltaState
from nestling.ops.momentum_gated_delta_rule.chunk import Coefficients, Span, coefficients


def write_rows(
    config: SelfTitansOptions,
    u: Float[Tensor, "B H M1 C X"],
    inputs: Float[Tensor, "B H M1 R X"],
    beta: Float[Tensor, "B H M2 C Y"],
    written: Float[Tensor, "B H M R Y"],
    alpha: Float[Tensor, "B H C Y"],
    mu: Float[Tensor, "B H C"] | None,
    mask: Bool[Tensor, "B H C"] | None,
    state: DeltaState,
    fixed: Float[Tensor, "H M Y X"] | None,
    q: Float[Tensor, "B H C X"],
) -> tuple[DeltaState, Float[Tensor, "B H C Y"]]:
    """Write ``written`` at ``inputs`` (C or 2 C of them), erase at u, read the last memory at q.

    S <- mu S + w u^T;  D <- diag(alpha) D - diag(beta) (D u) u^T + S. ``fixed`` as in chunk.py.

    Cost: time and memory O(M C^2) per row of the layer, which has a triangular system of its own.
    """
    rows = alpha.mT
    mu, mask = (None if x is None else x[:, :, None].expand_as(rows) for x in (mu, mask))
    gates = coefficients(rows, mu, None, mask).map(lambda x: x.unsqueeze(2))
    copies = inputs.shape[3] // u.shape[3]
    gone = torch.zeros_like(written[:, :, :, : u.shape[3]])
    if config.rule == "dgd":
        seen = products(u, inputs, written, None, gates.before, state, copies)
        if fixed is not None and config.erase == "whole":
            seen = seen + u @ fixed.mT
        system = gates.before.erased * (u @ u.mT)[..., None, :, :] * beta.mT[..., None, :]
        eye = torch.eye(u.shape[3], dtype=u.dtype, device=u.device)
        rows = seen.mT[..., None]
        system = (system + eye).expand(*rows.shape[:-2], *system.shape[-2:])
        gone = torch.linalg.solve_triangular(system, rows, upper=False, unitriangular=True)
        gone = beta * gone[..., 0].mT
    span = gates.after if config.read == "post" else gates.before
    part = DeltaState(*(x[:, :, -1:] for x in state))
    one = q[:, :, None], inputs[:, :, -1:], written[:, :, -1:], (u[:, :, -1:], gone[:, :, -1:])
    y = products(*one, span, part, copies)[:, :, 0]
    if fixed is not None:
        y = y + q @ fixed[:, -1].mT
    return close_rows(u, inputs, written, gone, gates, state, copies), y


def products(
    x: Float[Tensor, "B H M1 C X"],
    inputs: Float[Tensor, "B H M1 R X"],
    written: Float[Tensor, "B H M R Y"],
    erased: tuple[Float[Tensor, "B H M1 C X"], Float[Tensor, "B H M C Y"]] | None,
    span: Span,
    state: DeltaState,
    copies: int,
) -> Float[Tensor, "B H M C Y"]:
    """D x at every token, at the moment of ``span``; ``erased``: inputs, and what they erased."""
    y = span.start.mT * (x @ state.weight.mT)
    if span.momentum is not None:
        y = y + span.momentum.mT * (x @ state.momentum.mT)
    y = y + summed(span.writes.repeat(*(1,) * (span.writes.ndim - 1), copies), x, inputs, written)
    if erased is not None:
        y = y - summed(span.erased, x, *erased)
    return y


def summed(
    factors: Float[Tensor, "B H M2 Y C S"],
    x: Float[Tensor, "B H M1 C X"],
    inputs: Float[Tensor, "B H M1 S X"],
    rows: Float[Tensor, "B H M S Y"],
) -> Float[Tensor, "B H M C Y"]:
    """Sum over s of factors(y, c, s) (x_c . inputs_s) rows(s, y)."""
    scores = (x @ inputs.mT)[..., None, :, :] * factors
    return (scores @ rows.mT[..., None])[..., 0].mT


def close_rows(
    u: Float[Tensor, "B H M1 C X"],
    inputs: Float[Tensor, "B H M1 R X"],
    written: Float[Tensor, "B H M R Y"],
    gone: Float[Tensor, "B H M C Y"],
    gates: Coefficients,
    state: DeltaState,
    copies: int,
) -> DeltaState:
    """The state after the last token."""
    after = gates.after

    def last(x: Tensor, times: int) -> Tensor:  # [B, H, M, Y, C, S] -> [B, H, M, times S, Y]
        return x[..., -1, :].repeat(*(1,) * (x.ndim - 2), times).mT

    weight = after.start[..., -1, None] * state.weight
    if after.momentum is not None:
        weight = weight + after.momentum[..., -1, None] * state.momentum
    weight = weight + (last(after.writes, copies) * written).mT @ inputs
    weight = weight - (last(after.erased, 1) * gone).mT @ u
    momentum = state.momentum
    if gates.momentum_writes is not None and gates.momentum_start is not None:
        writes = gates.momentum_writes.repeat(1, 1, 1, 1, copies).mT
        momentum = gates.momentum_start[..., None] * momentum + (writes * written).mT @ inputs
    return DeltaState(weight, momentum)
