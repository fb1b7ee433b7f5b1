"""Smaller forms of what a level has moved: 16 bits per number, or a low-rank product."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from nestling.core.error import UserError

EXACT, SHORT = "exact", "16bit"


class Storage(NamedTuple):
    """A form and, for "rank", the largest rank."""

    form: str
    rank: int = 0


def parse_storage(text: str) -> Storage:
    """``exact``, ``16bit`` or ``rank:R``; anything else raises UserError.

    >>> parse_storage("rank:8")
    Storage(form='rank', rank=8)
    """
    form, _, rank = text.partition(":")
    if form == "rank" and rank.isdigit() and int(rank) > 0:
        return Storage(form, int(rank))
    if text in (EXACT, SHORT):
        return Storage(text)
    raise UserError(f"unknown storage {text!r}: choose exact, 16bit or rank:R, as in rank:8")


def pack(name: str, moved: Tensor, storage: Storage) -> dict[str, Tensor]:
    """The tensors that represent ``moved`` in a file.

    "16bit": ``moved`` divided by its largest value, as float16. "rank": the best approximation of
    that rank (Eckart and Young), in the same 16 bits, where that is smaller.
    """
    if storage.form == EXACT:
        return {name: moved}
    rows = moved.flatten(0, -2) if moved.ndim > 1 else moved[None]
    width = storage.rank * sum(rows.shape)
    if storage.form == SHORT or width >= rows.numel():
        return _short(name, moved)
    left, values, right = torch.linalg.svd(rows.double(), full_matrices=False)
    root = values[: storage.rank].sqrt()
    return {
        **_short(f"{name}:left", (left[:, : storage.rank] * root).to(moved.dtype)),
        **_short(f"{name}:right", (root[:, None] * right[: storage.rank]).to(moved.dtype)),
        f"{name}:shape": torch.tensor(moved.shape),
    }


def unpack(name: str, tensors: Mapping[str, Tensor]) -> Tensor | None:
    """The inverse of ``pack``, up to its rounding; None if the name is not there."""
    if name in tensors:
        return tensors[name]
    if f"{name}:shape" in tensors:
        product = _long(f"{name}:left", tensors) @ _long(f"{name}:right", tensors)
        return product.reshape(tensors[f"{name}:shape"].tolist())
    return _long(name, tensors) if f"{name}:short" in tensors else None


def _long(name: str, tensors: Mapping[str, Tensor]) -> Tensor:
    return tensors[f"{name}:short"].float() * tensors[f"{name}:scale"]


def _short(name: str, value: Tensor) -> dict[str, Tensor]:
    scale = value.abs().amax().float().clamp_min(torch.finfo(torch.float32).tiny)
    return {f"{name}:short": (value / scale).half(), f"{name}:scale": scale}
