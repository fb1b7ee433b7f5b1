"""The head as a level in loops, from its equations: one row, one token at a time."""

import torch
from torch import Tensor


def naive_head(
    queries: Tensor,  # [T, K], with the strength of reading
    keys: Tensor,  # [T, K], with that of writing
    logits: Tensor,  # [T, V], of the head alone
    ids: list[int],
    period: int,
    starts: list[bool],  # a document begins at the token
    learned: bool = False,  # keys learn from what they write
) -> tuple[Tensor, Tensor]:
    """Logits [T, V] of the adapted head, and D after the last token."""
    length, width = keys.shape
    added = torch.zeros(width, logits.shape[1], dtype=logits.dtype)
    pairs, rows, document = [], [], []
    for t in range(length):
        if starts[t]:
            added, pairs, document = torch.zeros_like(added), [], []
        elif document:
            key, p = pairs[-1]
            truth = torch.zeros_like(p)
            truth[ids[t]] = 1
            pairs[-1] = key, truth - p
        if document and len(document) % period == 0:
            added = added + sum(torch.outer(key, error) for key, error in pairs)
            pairs = []
        row = logits[t] + queries[t] @ added
        rows.append(row)
        pairs.append((keys[t] if learned else keys[t].detach(), row.detach().softmax(-1)))
        document.append(ids[t])
    return torch.stack(rows), added
