"""One token of the head as a level: the truth, and the form that decoding uses.

Letters: h hidden state, k and q its key and query [K], W the head, D what is added to it [K, V], C
the period, x_t the token that is read. Token t, counted from its document's start:

    D <- D + sum of k_s (onehot(x_{s+1}) - p_s)^T over the last period      where C divides t > 0
    logits_t = W h_t + D^T q_t,  p_t = softmax(logits_t)

The last pair of a period is whole once the next token is read, and is written before anything is
said about that token's successor.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


class HeadState(NamedTuple):
    """What the head has learned from the document, and the open period.

    Place s % C of ``keys`` and ``errors`` is of token s. The error of the last token read is -p
    until its successor is known. Places behind it are of the period before, and overwritten.
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
    """Logits of the next token from those of the head alone, and the state after the token.

    ``reset`` forgets the row's document before the token. A row whose ``mask`` is False keeps its
    state; its reset counts all the same. No gradient flows through what is written. ``previous`` is
    left as it is.

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
    """The weights after the pairs of the period in the rows where it is over."""
    if due.device.type == "cpu" and not torch.compiler.is_compiling() and not bool(due.any()):
        return state.weight
    keys = state.keys * due[:, None, None]
    return torch.baddbmm(state.weight, keys.mT, errors)
