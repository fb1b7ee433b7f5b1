"""The change that one document made: low-rank, in each map that study writes."""

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


class Factors(NamedTuple):
    """The change of one matrix: ``left @ right``."""

    left: Float[Tensor, "M R"]
    right: Float[Tensor, "R N"]

    def product(self) -> Float[Tensor, "M N"]:
        """The change itself."""
        return self.left @ self.right


Change = dict[str, Factors]  # by the names of a model's parameters


def new_change(start: Mapping[str, Tensor], rank: int, seed: int) -> Change:
    """A zero change: left factors are zero, right factors random.

    Rows of the right factors have norm 1 on average, so that a learning rate means the same at
    every width. Source: arXiv 2106.09685 (LoRA). Deviates: nothing.
    """
    found = {}
    for name, value in start.items():
        rows, columns = value.shape
        width = min(rank, rows, columns)
        right = drawn(width, columns, seed, name)
        left = torch.zeros(rows, width)
        found[name] = Factors(left.to(value.device), right.to(value.device))
    return found


def drawn(rows: int, columns: int, seed: int, name: str) -> Float[Tensor, "M N"]:
    """Normal numbers from a seed and a name; rows have norm 1 on average."""
    own = int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:7], "big")
    generator = torch.Generator().manual_seed(own)
    return torch.randn(rows, columns, generator=generator) / math.sqrt(columns)


def rounded(change: Change) -> Change:
    """The change in 16 bits per number, as stored in a memory file."""
    return {name: Factors(*(x.detach().half() for x in f)) for name, f in change.items()}


def joined(first: Change, second: Change, most: int) -> Change:
    """The sum of two changes; beyond rank ``most`` only the largest singular values are kept."""
    found = dict(first)
    for name, (left, right) in second.items():
        if name in first:
            old = first[name]
            left, right = torch.cat([old.left, left], 1), torch.cat([old.right, right])
        found[name] = _short(left, right, most) if len(right) > most else Factors(left, right)
    return found


def _short(left: Tensor, right: Tensor, rank: int) -> Factors:
    """The best approximation of a given rank (Eckart-Young), by two thin QR decompositions."""
    a, b = torch.linalg.qr(left.double()), torch.linalg.qr(right.double().T)
    u, values, v = torch.linalg.svd(a.R @ b.R.T)
    root = values[:rank].sqrt()
    return Factors(
        (a.Q @ (u[:, :rank] * root)).to(left), ((root[:, None] * v[:rank]) @ b.Q.T).to(right)
    )


def changed(start: Mapping[str, Tensor], changes: Iterable[Change]) -> dict[str, Tensor]:
    """The weights with all changes added, in order; unchanged ones are left out."""
    found: dict[str, Tensor] = {}
    for change in changes:
        for name, factors in change.items():
            base = found.get(name)
            if base is None:
                base = start[name].to(torch.promote_types(start[name].dtype, torch.float32))
            left, right = (x.to(base) for x in factors)
            found[name] = torch.addmm(base, left, right)
    return {name: value.to(start[name].dtype) for name, value in found.items()}


def size(changes: Sequence[Change]) -> int:
    """The number of parameters in changes."""
    return sum(x.numel() for change in changes for factors in change.values() for x in factors)
