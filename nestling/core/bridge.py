"""Passes tensors to compiled code: a struct of sizes and addresses, checked at every call.

The C++ sources export functions that take a pointer to such a struct. Addresses are passed only of
tensors whose shape, dtype, device and layout match the declaration, and only in a struct of the
length and version that the library was compiled with.
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
    sizes, as in nestling.core.shapes: "batch length heads" has the floating dtype of the call,
    "int64: batch length" its own; an array with a leading "?" may be None (a null pointer);
    "column" is a list of ``count`` items made by ``tensors`` or ``whole``. Integers follow from the
    sizes of the arrays, or are given; ``threads`` is torch's. The source declares LAYOUT(name,
    struct, version, tokens), where ``tokens`` is the maximum per work item.
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
        """The compiled library, once its struct has been checked; None if there is none."""
        found = native.library(self.source.parent, self.source.name)
        if found is not None and found is not self._known:
            self._compare(found)
            self._known = found
        return found

    def _compare(self, found: ctypes.CDLL) -> None:
        """Raise RuntimeError if the library takes another struct."""
        theirs = {}
        for what in self.layout:
            function = getattr(found, f"{self.name}_{what}")
            function.restype = ctypes.c_int64
            theirs[what] = function()
        if theirs != self.layout:
            raise RuntimeError(f"{self.source} was compiled with {theirs}, not {self.layout}")

    def available(self, x: Tensor) -> bool:
        """Whether there is a library that supports the dtype and device of x."""
        return native.usable(x) and self.library() is not None

    def verify(self, given: Mapping[str, Any], **sizes: int) -> dict[str, int]:
        """Check the inputs and return all sizes. Raises UserError for the first misfit."""
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
        """Compute ``work`` in a dtype. Raises UserError for the first array that does not fit."""
        wanted, found = self.works[work], self.library()
        sizes = {"threads": torch.get_num_threads()} | wanted.verify(given, **sizes)
        if found is None or dtype not in SUFFIX:
            raise UserError(f"{self.name} is not compiled for {dtype}; use float32 or float64")
        addresses = []
        for name in self.arrays:
            x, leaf = given.get(name), wanted.leaves.get(name)
            if name in self.columns[work]:
                if not isinstance(x, ctypes.Array) or len(x) != sizes["count"]:
                    raise UserError(f"{self.name}: {name} must have {sizes['count']} items")
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
        """The address of a tensor that compiled code can read: contiguous, on the CPU."""
        if x.dtype is not dtype or not native.plain(x) or not x.is_cpu or not x.is_contiguous():
            raise UserError(f"{self.name}: {name} must be a contiguous {dtype} tensor on the CPU")
        return x.data_ptr()

    def tensors(self, dtype: torch.dtype, **lists: Sequence[Tensor]) -> dict[str, Any]:
        """Lists of tensors as lists of addresses; the shapes must be those of the first list."""
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
        """Lists of integers for the struct."""
        return {name: (ctypes.c_int64 * len(x))(*x) for name, x in lists.items()}


def _wanted(name: str, arrays: Mapping[str, str]) -> Wanted:
    leaves = {}
    for field, text in arrays.items():
        kind, _, sizes = text.removeprefix("?").rpartition(":")
        if text != COLUMN:
            leaves[field] = Leaf(Shape.of(sizes), kind or "float", text.startswith("?"))
    return Wanted(name, leaves, one_dtype=True)
