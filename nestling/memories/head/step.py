"""One token of the head as a level: the reference, also used in decoding.

Letters: h hidden state, k and q its key and query [K], W the head, D its written part [K, V], C the
period, x_t the token that is read. For token t, counted from its document's start:

    D <- D + sum of k_s (onehot(x_{s+1}) - p_s)^T over the last period      where C divides t > 0
    logits_t = W h_t + D^T q_t,  p_t = softmax(logits_t)

The last pair of a period is complete once the next token is read, and is written before that
token's successor is predicted.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nestling.core.named import traceable


@traceable
class HeadState(NamedTuple):
    """D, as learned from the document, and the pairs of the open period.

    ``keys`` and ``errors`` hold token s at place s % C. The error of the last token read is -p
    until its successor is known. Later places are left from the period before, to be overwritten.
    """

    weight: Float[Tensor, "B K V"]
    keys: Float[Tensor, "B C K"]
    errors: Float[Tensor, "B C V"]
    count: Int[Tensor, " B"]  # tokens of the document
    previous: Float[Tensor, "B E"]  # the last token of the document, embedded; E may be 0


def step(
    state: HeadState,
    *,
    query: Float[Tensor, "B K"],
    key: Float[Tensor, "B K"],
    logits: Float[Tensor, "B V"],
    ids: Int[Tensor, " B"],
    reset: Bool[Tensor, " B"] | None = None,
    mask: Bool[Tensor, " B"] | None = None,
) -> tuple[Float[Tensor, "B V"], HeadState]:
    """Logits of the next token, given those of the head alone, and the state after the token.

    ``reset`` clears the row's state before the token. A row whose ``mask`` is False keeps its
    state, but its reset still applies. No gradient flows through the writes. ``previous`` is
    unchanged.

    Cost: a product of [K] and [K, V]; at the end of a period one of [K, C] and [C, V].
    """
    rows, period = torch.arange(len(ids), device=ids.device), state.keys.shape[1]
    if reset is not None:
        kept = [torch.where(reset.view(-1, *[1] * (x.ndim - 1)), 0, x) for x in state]
        state = HeadState(*kept)
    count = state.count
    follows = count > 0 if mask is None else mask & (count > 0)
    errors = state.errors.clone()
    errors[rows, (count - 1) % period, ids] += follows.to(errors.dtype)
    weight = _written(state, errors, follows & (count % period == 0))
    wide = weight.dtype
    read = (query.to(wide)[:, None] @ weight)[:, 0]
    y = (logits + read).to(logits.dtype)
    with torch.no_grad():
        place = rows, count % period
        keys, error = state.keys.clone(), -y.to(wide).softmax(-1)
        taken = torch.ones_like(count) if mask is None else mask.long()
        here = taken.bool()[:, None]
        keys[place] = torch.where(here, key.to(wide), keys[place])
        errors[place] = torch.where(here, error, errors[place])
    return y, HeadState(weight, keys, errors, count + taken, state.previous)


@torch.no_grad()
def _written(
    state: HeadState, errors: Float[Tensor, "B C V"], due: Bool[Tensor, " B"]
) -> Float[Tensor, "B K V"]:
    """The weights, with the period's pairs written in the rows whose period has ended."""
    if due.device.type == "cpu" and not torch.compiler.is_compiling() and not bool(due.any()):
        return state.weight
    keys = state.keys * due[:, None, None]
    return torch.baddbmm(state.weight, keys.mT, errors)
