"""One token of the delta rule with per-channel decay and a separate eraser: the reference.

Letters, for one token: S weight [V, K], q query, k key, w write, p erase key, b eraser, alpha
retention per channel.

    S_t = S_{t-1} diag(alpha_t) - (S_{t-1} p_t) b_t^T + w_t k_t^T
    y_t = S_t q_t
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from nestling.core.named import traceable


@traceable
class DiagonalState(NamedTuple):
    """The state of the recurrence."""

    weight: Float[Tensor, "B H V K"]


def step(
    state: DiagonalState,
    *,
    q: Float[Tensor, "B H K"],
    k: Float[Tensor, "B H K"],
    w: Float[Tensor, "B H V"],
    log_alpha: Float[Tensor, "B H K"],
    erase_key: Float[Tensor, "B H K"],
    eraser: Float[Tensor, "B H K"],
    reset: Bool[Tensor, " B"] | None = None,
    mask: Bool[Tensor, " B"] | None = None,
) -> tuple[Float[Tensor, "B H V"], DiagonalState]:
    """Advance the state by one token and read it.

    ``reset`` sets the weight of a row to zero before the token. A row whose ``mask`` is False keeps
    its state, but is still reset.

    Source: arXiv 2503.14456 (RWKV-7), the recurrence of wkv. Deviates: nothing; the eraser is an
    argument. Cost: O(V K) per head.
    """
    (weight,) = state
    if reset is not None:
        weight = torch.where(_rows(reset), torch.zeros_like(weight), weight)
    erased = torch.einsum("bhvk,bhk->bhv", weight, erase_key)
    new = (
        weight * log_alpha.exp()[:, :, None]
        - torch.einsum("bhv,bhk->bhvk", erased, eraser)
        + torch.einsum("bhv,bhk->bhvk", w, k)
    )
    if mask is not None:
        new = torch.where(_rows(mask), new, weight)
    return torch.einsum("bhvk,bhk->bhv", new, q), DiagonalState(new)


def _rows(flag: Bool[Tensor, " B"]) -> Bool[Tensor, "B 1 1 1"]:
    return flag[:, None, None, None]
