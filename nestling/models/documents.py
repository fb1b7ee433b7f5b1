"""Document boundaries, as given by the libraries that pack several documents into a row."""

from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from nestling.core.error import UserError, did_you_mean

# harmless: the models count positions themselves and know one kind of token
IGNORED = ("cache_position", "token_type_ids", "max_length_q", "max_length_k")
ENDS = ("cu_seqlens", "cu_seq_lens_q", "cu_seq_lens_k")


class Packing(NamedTuple):
    """All arguments that mark where documents begin; they are combined."""

    reset: Tensor | None = None  # [B, T], True at the first token
    position_ids: Tensor | None = None  # [B or 1, T], 0 at the first token
    seq_idx: Tensor | None = None  # [B or 1, T], another number in every document
    cu_seqlens: Tensor | None = None  # [N + 1], first tokens, and the end; for a single row
    cu_seq_lens_q: Tensor | None = None  # the same, as FlashAttention names it
    cu_seq_lens_k: Tensor | None = None


def packing_of(more: dict[str, Any], **named: Tensor | None) -> Packing:
    """Parse the keywords of a call; one that the model does not know raises UserError.

    >>> packing_of({"seq_ids": 1})
    Traceback (most recent call last):
        ...
    nestling.core.error.UserError: unknown argument 'seq_ids': did you mean 'seq_idx'?
    """
    known = (*(name for name in Packing._fields if name not in named), *IGNORED)
    for name in more:
        if name not in known:
            raise UserError(f"unknown argument {name!r}: {did_you_mean(name, known)}")
    return Packing(**named, **{name: more[name] for name in more if name in Packing._fields})


def starts(packing: Packing, mask: Bool[Tensor, "B T"]) -> Bool[Tensor, "B T"] | None:
    """The first tokens of documents; None if nothing marks them.

    A position 0 counts only at valid positions, as libraries fill padding with it.

    >>> ids = torch.tensor([[0, 1, 2, 0, 1]])
    >>> starts(Packing(position_ids=ids), torch.ones(1, 5, dtype=torch.bool)).long()
    tensor([[1, 0, 0, 1, 0]])
    """
    found = []
    if packing.reset is not None:
        found.append(_row("reset", packing.reset, mask).bool())
    if packing.position_ids is not None:
        found.append((_row("position_ids", packing.position_ids, mask) == 0) & mask)
    if packing.seq_idx is not None:
        index = _row("seq_idx", packing.seq_idx, mask)
        found.append(torch.ones_like(mask))
        found[-1][:, 1:] = index[:, 1:] != index[:, :-1]
    for name in ENDS:
        ends = getattr(packing, name)
        if ends is not None:
            found.append(_from_ends(name, ends, mask))
    if not found:
        return None
    return torch.stack(found).any(0) if len(found) > 1 else found[0]


def _row(name: str, given: Tensor, mask: Bool[Tensor, "B T"]) -> Tensor:
    rows, length = mask.shape
    if given.dim() != 2 or given.shape[0] not in (1, rows) or given.shape[1] != length:
        raise UserError(f"{name} is {list(given.shape)}; expected [{rows}, {length}]")
    return given.to(mask.device).expand(rows, length)


def _from_ends(
    name: str, ends: Int[Tensor, " N"], mask: Bool[Tensor, "B T"]
) -> Bool[Tensor, "B T"]:
    rows, length = mask.shape
    if rows != 1:
        raise UserError(f"{name} needs one row with all documents, not {rows} rows")
    places = ends.to(mask.device).long()
    rises = len(places) > 1 and bool((places[1:] >= places[:-1]).all())
    if not rises or int(places[0]) != 0 or int(places[-1]) != length:
        raise UserError(f"{name} must increase from 0 to {length}, the length of the row")
    first = torch.zeros_like(mask)
    # an empty document at the end begins after the row
    first[:, places[places < length]] = True
    return first
