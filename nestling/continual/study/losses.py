"""The losses of lessons and their gradients at the features, with one pass over the head and
nothing of vocabulary size kept."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from nestling.continual.study.body import Body, Ids
from nestling.continual.study.precision import HEAD

BYTES = 31 << 20  # of logits at a time; malloc maps larger blocks anew each time


@torch.no_grad()
def losses(
    body: Body,
    features: Sequence[Float[Tensor, "_ F"]],
    wanted: Sequence[Ids | Tensor],
    weights: Sequence[float],
) -> tuple[float, list[Float[Tensor, "_ F"]]]:
    """The weighted sum of the mean losses of lessons (nats per place), and its gradient.

    ``wanted`` are target tokens (cross-entropy) or features of the reference model (KL divergence
    from its predictions). The gradient at logits z is softmax(z) minus the target distribution; the
    result is the gradient at the features.
    """
    sizes = [len(found) for found in features]
    share = torch.cat([torch.full((n,), w / n) for n, w in zip(sizes, weights, strict=True)])
    here = torch.cat([found.detach() for found in features])
    share, total, grads, first = share.to(here.device), 0.0, [], 0
    rows = max(1, BYTES // (4 * body.reader.model.config.vocab_size))
    rows -= rows % HEAD if rows > HEAD else 0
    for part, own in zip(here.split(rows), share.split(rows), strict=True):
        loss, grad = _of_rows(body, part, _rows(wanted, sizes, first, len(part)), own[:, None])
        total, first = total + loss, first + len(part)
        grads.append(grad)
    return total, list(torch.cat(grads).split(sizes))


def _rows(
    wanted: Sequence[Ids | Tensor], sizes: Sequence[int], first: int, count: int
) -> list[tuple[int, Ids | Tensor]]:
    """The targets at ``count`` places from ``first`` on, and where they start."""
    found, begin = [], 0
    for one, size in zip(wanted, sizes, strict=True):
        low, high = max(begin, first), min(begin + size, first + count)
        if low < high:
            found.append((low - first, one[low - begin : high - begin]))
        begin += size
    return found


def _of_rows(
    body: Body,
    features: Float[Tensor, "N F"],
    wanted: Sequence[tuple[int, Ids | Tensor]],
    share: Float[Tensor, "N 1"],
) -> tuple[float, Float[Tensor, "N F"]]:
    with torch.enable_grad():
        begin = features.requires_grad_()
        logits = body.logits(begin)
    now = logits.log_softmax(-1)
    grad = now.exp()
    cost = torch.zeros(len(now), device=now.device)
    said = [(row, ids) for row, ids in wanted if not isinstance(ids, Tensor)]
    rows = [row + n for row, ids in said for n in range(len(ids))]
    if rows:
        place = torch.tensor(rows, device=now.device)
        token = torch.tensor([i for _, ids in said for i in ids], device=now.device)
        cost[place] = -now[place, token]
        grad[place, token] -= 1
    followed = [(row, there) for row, there in wanted if isinstance(there, Tensor)]
    if followed:
        theirs = body.logits(torch.cat([x.to(now.device) for _, x in followed])).log_softmax(-1)
        parts = theirs.split([len(x) for _, x in followed])
        for (row, _), there in zip(followed, parts, strict=True):
            own = slice(row, row + len(there))
            likely = there.exp()
            cost[own] = (likely * (there - now[own])).sum(-1)
            grad[own] -= likely
    [at_features] = torch.autograd.grad(logits, begin, grad.mul_(share))
    return float((cost * share[:, 0]).sum()), at_features
