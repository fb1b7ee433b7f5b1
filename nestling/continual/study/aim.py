"""Aims a change at the input directions in which a document differs from other text."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from nestling.continual.study.change import Change, Factors, drawn

LOOKED = 24  # own lessons whose inputs are looked at
RIDGE = 0.1  # regularisation of the covariance, as a fraction of the mean square of an input


@torch.no_grad()
def aimed(
    change: Change,
    own: Mapping[str, Float[Tensor, "N D"]],
    others: Mapping[str, Float[Tensor, "M D"]],
    seed: int,
) -> Change:
    """A zero change whose right factors respond to ``own`` inputs of its maps, not to ``others``.

    Each row is a random mixture of a map's own inputs X minus the mean of the others, divided by
    their covariance C, and normalised:

        right = normalised(G (X - mean) (C + e I)^-1)

    so that a write at a document's keys has little effect elsewhere. Source: the keys of arXiv
    2210.07229 (MEMIT), as rows of a low-rank change. Deviates: rows are mixtures, and they are
    trained further.
    """
    found = dict(change)
    for name, (left, right) in change.items():
        if name in own and name in others:
            rows = _rows(own[name], others[name], drawn(len(right), len(own[name]), seed, name))
            found[name] = Factors(left, rows.to(right))
    return found


def _rows(
    mine: Float[Tensor, "N D"], rest: Float[Tensor, "M D"], mix: Float[Tensor, "R N"]
) -> Float[Tensor, "R D"]:
    centre = rest.mean(0)
    other = rest - centre
    spread = other.T @ other / len(other)
    spread.diagonal().add_(RIDGE * spread.diagonal().mean().clamp_min(1e-12))
    rows = torch.linalg.solve(spread, ((mix.to(mine) @ (mine - centre)).T)).T
    return rows / rows.norm(dim=1, keepdim=True).clamp_min(1e-12)
