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
    slots: int | None = None,  # tokens that have a column, at most
) -> tuple[Tensor, Tensor]:
    """Logits [T, V] of the adapted head, and D [K, V] after the last token.

    With ``slots``, the columns of D of tokens that have none are zero.
    """
    length, width = keys.shape
    added = torch.zeros(width, logits.shape[1], dtype=logits.dtype)
    pairs, rows, document, owned = [], [], [], []
    for t in range(length):
        if starts[t]:
            added, pairs, document, owned = torch.zeros_like(added), [], [], []
        if document and len(document) % period == 0:
            following = [*document[1 - period or len(document) :], ids[t]]
            latest = list(dict.fromkeys(reversed(following)))[::-1]
            new = [token for token in latest if token not in owned]
            owned = [*(token for token in owned if token not in latest), *latest]
            owned = owned[-(slots or len(owned)) :]
            there, fresh = torch.zeros(2, logits.shape[1], dtype=torch.bool)
            there[owned], fresh[new] = True, True
            added = added * (there & ~fresh if slots else 1)
            for (key, p), token in zip(pairs, following, strict=True):
                truth = torch.zeros_like(p)
                truth[token] = 1
                error = (truth - p * ~fresh) * there if slots else truth - p
                added = added + torch.outer(key, error)
            pairs = []
        row = logits[t] + queries[t] @ added
        rows.append(row)
        pairs.append((keys[t] if learned else keys[t].detach(), row.detach().softmax(-1)))
        document.append(ids[t])
    return torch.stack(rows), added
