"""One token of the selective scan: the reference.

Letters, for one token: h state [N, D], q read vector (C in the paper), k write vector (B in the
paper), both [N], w write [D], delta step size [D]; rate [N, D] (A in the paper) is negative. Every
number of the state has its own decay:

    h_t = exp(delta_t rate) h_{t-1} + k_t (delta_t w_t)^T
    y_t = h_t^T q_t
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def step(
    state: Float[Tensor, "B N D"],
    *,
    q: Float[Tensor, "B N"],
    k: Float[Tensor, "B N"],
    w: Float[Tensor, "B D"],
    delta: Float[Tensor, "B D"],
    rate: Float[Tensor, "N D"],
    reset: Bool[Tensor, " B"] | None = None,
    mask: Bool[Tensor, " B"] | None = None,
) -> tuple[Float[Tensor, "B D"], Float[Tensor, "B N D"]]:
    """Advance the state by one token and read it.

    ``reset`` sets the state of a row to zero before the token. A row whose ``mask`` is False keeps
    its state, but is still reset.

    Source: arXiv 2312.00752, Eq 2a-2b and 4. Deviates: the write is discretised by Euler's rule,
    as in the paper's code; Eq 4 uses a zero-order hold for it too. Cost: O(N D).
    """
    if reset is not None:
        state = torch.where(reset[:, None, None], 0.0, state)
    decay = torch.exp(delta[:, None, :] * rate)
    new = decay * state + k[:, :, None] * (delta * w)[:, None, :]
    if mask is not None:
        new = torch.where(mask[:, None, None], new, state)
    return torch.einsum("bnd,bn->bd", new, q), new
