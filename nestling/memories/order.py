"""Reorder positions so that a document's masked ones come last, as memories expect."""

from jaxtyping import Float, Int
from torch import Tensor

from nestling.core.memory import Flow


def valid_first(flow: Flow) -> Int[Tensor, "B T"]:
    """The order that puts the masked positions of each document after its valid ones."""
    assert flow.mask is not None
    key = (~flow.mask).long()
    if flow.reset is not None:
        key = key + 2 * flow.reset.long().cumsum(1)
    return key.argsort(dim=1, stable=True)


def along(x: Float[Tensor, "B T D"], order: Int[Tensor, "B T"]) -> Float[Tensor, "B T D"]:
    """Permute the positions of each row."""
    return x.gather(1, order[..., None].expand_as(x))
