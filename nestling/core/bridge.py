"""The one way from tensors to compiled code: a struct of sizes and addresses, checked at each call.

A source of ours exports functions that take a pointer to such a struct. No address is handed over
but of a tensor whose shape, dtype, place and layout were compared with what is declared, and no
struct but one of the length and version that the library was compiled with.
"""

import ctypes
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nestling.core import native
from nestling.core.error import UserError
from nestling.core.shapes import Leaf, Shape, Wanted

SUFFIX = {torch.float32: "float", torch.float64: "double"}
COLUMN = "column"


class Bridge:
    """The functions ``<name>_<work>_<float or double>`` of one source, and their struct.

    The struct has, in this order, ``integers`` (int64), ``numbers`` (double) and an address for
    each array of ``inputs`` and of all ``works``, every name once. An array is declared by its
    sizes, as in nestling.core.shapes: "batch length heads", of the call's floating dtype;
    "int64: batch length"; with a "?" before it may be None, a null pointer; "column" is what
    ``tensors`` or ``numbers`` below gives, ``count`` items. Integers are what their names stand for
    in the sizes, or are given; ``threads`` are torch's. The source says LAYOUT(name, struct,
    version, tokens), ``tokens`` those of a piece of work at most.
    """

    def __init__(
        self,
        source: Path,
        name: str,
        *,
        version: int,
        tokens: int = 0,
        integers: str,
        numbers: str = "",
        inputs: Mapping[str, str],
        works: Mapping[str, Mapping[str, str]],
    ):
        self.source, self.name = source, name
        self.integers, self.numbers = tuple(integers.split()), tuple(numbers.split())
        self.arrays = tuple(dict.fromkeys([*inputs, *(x for more in works.values() for x in more)]))
        kinds = [(self.integers, ctypes.c_int64), (self.numbers, ctypes.c_double)]
        kinds.append((self.arrays, ctypes.c_void_p))
        fields = [(field, kind) for fields, kind in kinds for field in fields]
        self.struct = type(name, (ctypes.Structure,), {"_fields_": fields})
        self.layout = {"bytes": ctypes.sizeof(self.struct), "version": version, "tokens": tokens}
        self.inputs = _wanted(name, inputs)
        self.works = {work: _wanted(name, {**inputs, **more}) for work, more in works.items()}
        self.columns = {
            work: {x for x, text in {**inputs, **more}.items() if text == COLUMN}
            for work, more in works.items()
        }
        self._known: ctypes.CDLL | None = None

    def library(self) -> ctypes.CDLL | None:
        """The compiled library, after a check of its struct; None if there is none."""
        found = native.library(self.source.parent, self.source.name)
        if found is not None and found is not self._known:
            self._compare(found)
            self._known = found
        return found

    def _compare(self, found: ctypes.CDLL) -> None:
        """Raise RuntimeError for a library that takes another struct."""
        theirs = {}
        for what in self.layout:
            function = getattr(found, f"{self.name}_{what}")
            function.restype = ctypes.c_int64
            theirs[what] = function()
        if theirs != self.layout:
            raise RuntimeError(f"{self.source} has {theirs}, declared is {self.layout}")

    def available(self, x: Tensor) -> bool:
        """Whether it can compute in x's type and place, now."""
        return native.usable(x) and self.library() is not None

    def verify(self, given: Mapping[str, Any], **sizes: int) -> dict[str, int]:
        """All sizes; UserError for the first input that a call would not take."""
        return self.inputs.verify(given, **sizes)

    def call(
        self,
        work: str,
        dtype: torch.dtype,
        given: Mapping[str, Any],
        *,
        numbers: Mapping[str, float] | None = None,
        **sizes: int,
    ) -> None:
        """Compute ``work`` in a dtype; UserError for the first array that is not as declared."""
        wanted, found = self.works[work], self.library()
        sizes = {"threads": torch.get_num_threads()} | wanted.verify(given, **sizes)
        if found is None or dtype not in SUFFIX:
            raise UserError(f"{self.name} is not compiled for {dtype} here")
        addresses = []
        for name in self.arrays:
            x, leaf = given.get(name), wanted.leaves.get(name)
            if name in self.columns[work]:
                if not isinstance(x, ctypes.Array) or len(x) != sizes["count"]:
                    raise UserError(f"{self.name}: {name} is no column of {sizes['count']} items")
                addresses.append(ctypes.addressof(x))
            elif leaf is None or x is None:
                addresses.append(None)
            else:
                addresses.append(self._address(name, x, dtype if leaf.kind == "float" else x.dtype))
        counted = (sizes[name] for name in self.integers)
        measured = ((numbers or {}).get(name, 0.0) for name in self.numbers)
        problem = self.struct(*counted, *measured, *addresses)
        getattr(found, f"{self.name}_{work}_{SUFFIX[dtype]}")(ctypes.byref(problem))

    def _address(self, name: str, x: Tensor, dtype: torch.dtype) -> int:
        """Where a tensor lies that compiled code can read: whole, in a row, on the CPU."""
        if x.dtype is not dtype or not native.plain(x) or not x.is_cpu or not x.is_contiguous():
            raise UserError(f"{self.name}: {name} must be a contiguous {dtype} tensor on the CPU")
        return x.data_ptr()

    def tensors(self, dtype: torch.dtype, **lists: Sequence[Tensor]) -> dict[str, Any]:
        """Lists of addresses; each tensor has the shape that it has in the first list."""
        first = next(iter(lists.values()))
        found = {}
        for name, tensors in lists.items():
            places = []
            for number, (x, like) in enumerate(zip(tensors, first, strict=True)):
                if x.shape != like.shape:
                    raise UserError(
                        f"{self.name}: {name}[{number}] is {list(x.shape)}; expected "
                        f"{list(like.shape)}"
                    )
                places.append(self._address(name, x, dtype))
            found[name] = (ctypes.c_void_p * len(places))(*places)
        return found

    def whole(self, **lists: Sequence[int]) -> dict[str, Any]:
        """Lists of whole numbers."""
        return {name: (ctypes.c_int64 * len(x))(*x) for name, x in lists.items()}


def _wanted(name: str, arrays: Mapping[str, str]) -> Wanted:
    leaves = {}
    for field, text in arrays.items():
        kind, _, sizes = text.removeprefix("?").rpartition(":")
        if text != COLUMN:
            leaves[field] = Leaf(Shape.of(sizes), kind or "float", text.startswith("?"))
    return Wanted(name, leaves, one_dtype=True)
