"""One token of the head as a level: the reference, also used in decoding.

Letters: h hidden state, k and q its key and query [K], W the head, D its written part [K, S], C the
period, x_t the token that is read. For token t, counted from its document's start:

    D <- D + sum of k_s (onehot(x_{s+1}) - p_s)^T over the last period      where C divides t > 0
    logits_t = W h_t + D^T q_t,  p_t = softmax(logits_t)

The last pair of a period is complete once the next token is read, and is written before that
token's successor is predicted.

D has a column for each of the V tokens of the vocabulary, or S columns, C <= S, for the tokens that
were the last to follow another. At a write, those among the period's that have none get one that is
zero, from the tokens that have not followed for longest; errors are those of the tokens that have
had their column during the period.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nestling.core.named import traceable
from nestling.memories.head.columns import Columns, write


@traceable
class HeadState(NamedTuple):
    """D, as learned from the document, and the pairs of the open period.

    ``keys``, ``errors`` and ``targets`` hold token s at place s % C; its error is -p, its target
    its successor, 0 until known. Later places are left from the period before, to be overwritten.
    """

    weight: Float[Tensor, "B K S"]
    keys: Float[Tensor, "B C K"]
    errors: Float[Tensor, "B C S"]
    targets: Int[Tensor, "B C"]
    tokens: Int[Tensor, "B N"]  # those of ``columns``; N is S, or 0 where all have one
    last: Int[Tensor, "B N"]
    count: Int[Tensor, " B"]  # tokens of the document
    previous: Float[Tensor, "B E"]  # the last token of the document, embedded; E may be 0

    @property
    def columns(self) -> Columns:
        """Which tokens have a column."""
        return Columns(self.tokens, self.last)


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

    Cost: a product of [K] and [K, S], and a softmax over V; at the end of a period a product of
    [K, C] and [C, S].
    """
    rows, period = torch.arange(len(ids), device=ids.device), state.keys.shape[1]
    if reset is not None:
        state = _cleared(state, reset)
    count = state.count
    follows = count > 0 if mask is None else mask & (count > 0)
    targets = state.targets.clone()
    last = rows, (count - 1) % period
    targets[last] = torch.where(follows, ids, targets[last])
    weight, columns = state.weight, state.columns
    due = follows & (count % period == 0)
    if due.device.type != "cpu" or torch.compiler.is_compiling() or bool(due.any()):
        pairs = state.keys, state.errors, targets
        weight, columns = write(weight, pairs, columns, due)
    wide = weight.dtype
    y = columns.read(logits.to(wide)[:, None], query.to(wide)[:, None], weight)[:, 0]
    y = y.to(logits.dtype)
    with torch.no_grad():
        place = rows, count % period
        keys, errors = state.keys.clone(), state.errors.clone()
        taken = torch.ones_like(count) if mask is None else mask.long()
        here = taken.bool()[:, None]
        keys[place] = torch.where(here, key.to(wide), keys[place])
        found = columns.errors(y.to(wide)[:, None])[:, 0]
        errors[place] = torch.where(here, found, errors[place])
        targets[place] = torch.where(here[:, 0], 0, targets[place])
    pairs = keys, errors, targets
    return y, HeadState(weight, *pairs, *columns, count + taken, state.previous)


def _cleared(state: HeadState, rows: Bool[Tensor, " B"]) -> HeadState:
    """The state with that of some rows as before a document."""

    def without(x: Tensor, value: int = 0) -> Tensor:
        return torch.where(rows.view(-1, *[1] * (x.ndim - 1)), value, x)

    free = {"tokens": without(state.tokens, -1), "last": without(state.last, -1)}
    return HeadState(*map(without, state))._replace(**free)
