"""One token of the recurrence with decay, eraser and momentum: the reference.

Letters, for one token: W weight [V, K], S momentum [V, K], q query, k key, p erase key, w write,
alpha retention, beta erase strength, mu momentum decay.

    S_t = mu_t S_{t-1} + w_t k_t^T
    W_t = alpha_t W_{t-1} - beta_t (W_{t-1} p_t) k_t^T + S_t
    y_t = W_t q_t  ("post")   or   W_{t-1} q_t  ("pre")
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from nestling.core.named import traceable


@traceable
class DeltaState(NamedTuple):
    """The state of the recurrence."""

    weight: Float[Tensor, "B H V K"]
    momentum: Float[Tensor, "B H V K"]


def step(
    state: DeltaState,
    *,
    q: Float[Tensor, "B #H K"],
    k: Float[Tensor, "B #H K"],
    w: Float[Tensor, "B H V"],
    alpha: Float[Tensor, "B H"],
    beta: Float[Tensor, "B H"] | None = None,
    mu: Float[Tensor, "B H"] | None = None,
    erase_key: Float[Tensor, "B H K"] | None = None,
    initial: Float[Tensor, "*B H V K"] | None = None,
    read: str = "post",
    reset: Bool[Tensor, " B"] | None = None,
    mask: Bool[Tensor, " B"] | None = None,
) -> tuple[Float[Tensor, "B H V"], DeltaState]:
    """Advance the state by one token and read it.

    Without ``beta`` nothing is erased. Without ``mu`` there is no momentum and ``state.momentum``
    passes through unchanged. ``reset`` sets the weight of a row to ``initial`` (zero if None) and
    its momentum to zero before the token. A row whose ``mask`` is False keeps its state, but is
    still reset.

    Source: arXiv 2512.24695, Eq 86-88 with the momentum of its Table 6 (Titans, arXiv 2501.00663,
    Eq 10-14). Deviates: the write is an argument; a separate erase key as in Comba.
    Cost: O(V K) per head.
    """
    weight, momentum = state
    if reset is not None:
        start = torch.zeros_like(weight) if initial is None else initial.expand_as(weight)
        weight = torch.where(_rows(reset), start, weight)
        momentum = torch.where(_rows(reset), torch.zeros_like(momentum), momentum)
    written = torch.einsum("bhv,bhk->bhvk", w, k)
    after = written if mu is None else mu[..., None, None] * momentum + written
    kept = alpha[..., None, None] * weight
    if beta is not None:
        erased = torch.einsum("bhvk,bhk->bhv", weight, k if erase_key is None else erase_key)
        kept = kept - torch.einsum("bhv,bhk->bhvk", beta[..., None] * erased, k)
    new = DeltaState(kept + after, momentum if mu is None else after)
    if mask is not None:
        new = DeltaState(
            torch.where(_rows(mask), new.weight, weight),
            torch.where(_rows(mask), new.momentum, momentum),
        )
    source = new.weight if read == "post" else weight
    return torch.einsum("bhvk,bhk->bhv", source, q), new


def _rows(flag: Bool[Tensor, " B"]) -> Bool[Tensor, "B 1 1 1"]:
    return flag[:, None, None, None]
