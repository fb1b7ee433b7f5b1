"""The delta rule with per-channel decay, exactly, C tokens at a time.

Letters as in step.py; t, s = 1..C are the tokens of a chunk, S_0 is its opening state. G_t is the
sum of log alpha over the tokens of t's document in this chunk up to t, G^-_t the same without t,
so exp(G_t - G_s) is the decay of a channel from s to t. Row t of E is S_{t-1} p_t.

    Q_t = q_t exp(G_t)   P_t = p_t exp(G^-_t)   K_s = k_s exp(-G_s)   B_s = b_s exp(-G_s)
    (I + strict_lower(P B^T)) E = P S_0^T + strict_lower(P K^T) w
    Y   = Q S_0^T + lower(Q K^T) w - lower(Q B^T) E
    S_C = (S_0 + w^T K - E^T B) diag(exp(G_C))

E is linear in S_0, so the systems of all chunks are solved at once and the loop over chunks has
two matrix products. Products across a document start are zero, including those with S_0.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from nestling.ops.diagonal_delta_rule.step import DiagonalState


class Chunks(NamedTuple):
    """The tokens of N chunks, and which pairs of them share a document."""

    q: Float[Tensor, "N B H C K"]
    k: Float[Tensor, "N B H C K"]
    w: Float[Tensor, "N B H C V"]
    p: Float[Tensor, "N B H C K"]
    b: Float[Tensor, "N B H C K"]
    log_alpha: Float[Tensor, "N B H C K"]
    order: Bool[Tensor, "*M C C"]  # column in the row's document, and not after it
    opened: Float[Tensor, "N B 1 C 1"] | None  # 1 in the chunk's first document


def chunk(
    q: Float[Tensor, "B T H K"],
    k: Float[Tensor, "B T H K"],
    w: Float[Tensor, "B T H V"],
    *,
    log_alpha: Float[Tensor, "B T H K"],
    erase_key: Float[Tensor, "B T H K"],
    eraser: Float[Tensor, "B T H K"],
    state: DiagonalState,
    reset: Bool[Tensor, "B T"] | None,
    mask: Bool[Tensor, "B T"] | None,
    chunk_size: int,
) -> tuple[Float[Tensor, "B T H V"], DiagonalState]:
    """Run the recurrence ``chunk_size`` tokens at a time; the size never changes the result.

    Source: arXiv 2503.14456, parallelised like the delta rule in arXiv 2406.06484. Deviates:
    nothing. Cost: time O(T (C^2 + C (K + V) + K V)) in T / C sequential steps, memory
    O(T (C + K + V) + T K V / C).
    """
    here = _split(q, k, w, erase_key, eraser, log_alpha, reset, mask, chunk_size)
    total = here.order.to(w.dtype) @ here.log_alpha
    shrunk, grown = torch.exp(total), torch.exp(-total)
    q, p = here.q * shrunk, here.p * torch.exp(total - here.log_alpha)
    grown_k, grown_b = here.k * grown, here.b * grown
    earlier = here.order.tril(-1)
    q_b, q_k = (torch.where(here.order, q @ x.mT, 0.0) for x in (grown_b, grown_k))
    p_b, p_k = (torch.where(earlier, p @ x.mT, 0.0) for x in (grown_b, grown_k))
    last = total[..., -1:, :]
    kept = torch.exp(last)
    if here.opened is not None:
        q, p = q * here.opened, p * here.opened
        kept = kept * here.opened[..., -1:, :]

    # E = read S_0^T + own
    eye = torch.eye(chunk_size, dtype=w.dtype, device=w.device)
    read, own = torch.linalg.solve_triangular(
        p_b + eye, torch.cat((p, p_k @ here.w), -1), upper=False, unitriangular=True
    ).split((p.shape[-1], w.shape[-1]), -1)
    # the writes and erasers, decayed to the end of the chunk
    left = torch.exp(last - total) * here.order[..., -1, :, None]
    left_b = here.b * left
    written = here.w.mT @ (here.k * left) - own.mT @ left_b
    weights = _carry(state.weight, kept, read, left_b, written)
    begun = torch.stack(weights[:-1])
    y = (q - q_b @ read) @ begun.mT + q_k @ here.w - q_b @ own
    y = y.movedim(0, 1).transpose(2, 3).flatten(1, 2)[:, : w.shape[1]]
    return y, DiagonalState(weights[-1])


def _split(
    q: Tensor,
    k: Tensor,
    w: Tensor,
    p: Tensor,
    b: Tensor,
    log_alpha: Tensor,
    reset: Bool[Tensor, "B T"] | None,
    mask: Bool[Tensor, "B T"] | None,
    chunk_size: int,
) -> Chunks:
    """[B, T, H, *] -> [N, B, H, C, *]; masked tokens write, erase and decay nothing."""
    batch, length = q.shape[:2]
    full = -(-length // chunk_size) * chunk_size
    if full != length:
        filled = torch.arange(full, device=q.device) < length
        mask = filled.expand(batch, full) if mask is None else _pad(mask, full) & filled

    def split(x: Tensor) -> Tensor:
        return _pad(x, full).unflatten(1, (-1, chunk_size)).movedim(1, 0).movedim(3, 2)

    q, k, w, p, b, log_alpha = (split(x) for x in (q, k, w, p, b, log_alpha))
    if mask is not None:
        valid, nothing = split(mask[:, :, None, None]), w.new_zeros(())
        w, b, log_alpha = (torch.where(valid, x, nothing) for x in (w, b, log_alpha))
    order = torch.ones(chunk_size, chunk_size, dtype=torch.bool, device=q.device).tril()
    opened = None
    if reset is not None:
        document = split(reset[:, :, None]).cumsum(-1)  # [N, B, 1, C]
        order = order & (document[..., :, None] == document[..., None, :])
        opened = (document == 0)[..., None].to(w.dtype)
    return Chunks(q, k, w, p, b, log_alpha, order, opened)


def _carry(
    weight: Float[Tensor, "B H V K"],
    kept: Float[Tensor, "N B H 1 K"],
    read: Float[Tensor, "N B H C K"],
    eraser: Float[Tensor, "N B H C K"],
    written: Float[Tensor, "N B H V K"],
) -> list[Float[Tensor, "B H V K"]]:
    """The opening weight of each chunk, and the weight after the last."""
    weights = [weight]
    for part in zip(kept.unbind(), read.unbind(), eraser.unbind(), written.unbind(), strict=True):
        kept_here, read_here, eraser_here, written_here = part
        erased = (weight @ read_here.mT) @ eraser_here
        weight = weight * kept_here + written_here - erased
        weights.append(weight)
    return weights


def _pad(x: Tensor, length: int) -> Tensor:
    """Pad dimension 1 with zeros to ``length``."""
    missing = length - x.shape[1]
    if not missing:
        return x
    return torch.cat([x, x.new_zeros(x.shape[0], missing, *x.shape[2:])], dim=1)
