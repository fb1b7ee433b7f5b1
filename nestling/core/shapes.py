"""Checks tensor arguments against declared shapes and dtypes, at run time.

Sizes are written as in jaxtyping: "B T #H K". A name is the same size wherever it occurs, "#H" is
that size or 1, "B+1" and "W-1" are its neighbours, "_" is any size, "*B" one more dimension or
none. Compiled code has undefined behaviour for other shapes, so the checks are always on, not only
in tests; they look at shapes, never at values.
"""

import functools
import inspect
import re
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from nestling.core.error import UserError

DIMENSION = re.compile(r"(#?)([A-Za-z]\w*)([+-]\d+)?")
REMEMBERED = 256  # valid sets of shapes to cache per function
Called = TypeVar("Called", bound=Callable[..., Any])


class Dimension(NamedTuple):
    """One size of a tensor."""

    name: str | None  # None: ``offset`` is the size; a negative one is any size
    offset: int = 0  # added to the size of the name
    broadcast: bool = False  # may be 1

    def fits(self, size: int, sizes: dict[str, int]) -> bool:
        """Whether a size matches; a name without a size is bound to it."""
        if self.name is None:
            return self.offset in (size, -1)
        if self.broadcast and size == 1:
            return True
        return sizes.setdefault(self.name, size - self.offset) == size - self.offset

    def text(self, sizes: Mapping[str, int]) -> str:
        """The expected shape for messages, with sizes where they are known."""
        if self.name is None:
            return "any" if self.offset < 0 else str(self.offset)
        name = f"{self.name}{self.offset:+d}" if self.offset else self.name
        known = f"{name}={sizes[self.name] + self.offset}" if self.name in sizes else name
        return f"{known} or 1" if self.broadcast else known


class Shape(NamedTuple):
    """The sizes of a tensor, in order."""

    dims: tuple[Dimension, ...]
    leading: bool = False  # whether there may be one more leading dimension, the batch

    @classmethod
    def of(cls, text: str) -> "Shape":
        """Parse a shape such as "B T #H K"."""
        words = text.split()
        leading = bool(words) and words[0].startswith("*")
        return cls(tuple(_dimension(word.lstrip("*")) for word in words), leading)

    def fits(self, shape: Sequence[int], sizes: dict[str, int]) -> bool:
        """Whether a tensor has these sizes; new names are added to ``sizes``."""
        dims = self.dims
        if len(shape) != len(dims):
            if not (self.leading and len(shape) == len(dims) - 1):
                return False
            dims = dims[1:]
        return all(dim.fits(size, sizes) for dim, size in zip(dims, shape, strict=True))

    def text(self, sizes: Mapping[str, int]) -> str:
        """The expected shape for messages, with sizes where they are known."""
        return f"[{', '.join(dim.text(sizes) for dim in self.dims)}]"


class Leaf(NamedTuple):
    """The required dtype and shape of one argument."""

    shape: Shape
    kind: str  # "float", "int", "bool", or a dtype by its name
    optional: bool = False


def is_of(dtype: torch.dtype, kind: str) -> bool:
    """Whether a dtype is of a kind: "float", "int", "bool", or the name of a dtype."""
    if kind == "float":
        return dtype.is_floating_point
    if kind == "bool":
        return dtype is torch.bool
    if kind == "int":
        return not (dtype.is_floating_point or dtype.is_complex or dtype is torch.bool)
    return dtype is getattr(torch, kind)


def _dimension(word: str) -> Dimension:
    if word == "_":
        return Dimension(None, -1)
    if word.isdigit():
        return Dimension(None, int(word))
    found = DIMENSION.fullmatch(word)
    assert found is not None, f"{word} is no size"
    return Dimension(found[2], int(found[3] or 0), bool(found[1]))


class Wanted:
    """The required shapes of several arguments of a function, by name, in order."""

    def __init__(self, function: str, leaves: Mapping[str, Leaf], *, one_dtype: bool = False):
        """With ``one_dtype``, all floating tensors must have the dtype of the first."""
        self.function = function
        self.leaves = dict(leaves)
        self.one_dtype = one_dtype
        self._right: dict[Any, dict[str, int]] = {}

    def verify(self, given: Mapping[str, Any], **sizes: int) -> dict[str, int]:
        """Check arguments and return the sizes of all names; ``sizes`` are known in advance.

        Raises UserError that names the first argument with a wrong shape, dtype or device (all must
        be on that of the first). Shapes that passed before are not checked again.
        """
        values = [given.get(name) for name in self.leaves]
        seen = (*[_look(x) for x in values], *sizes.items())
        try:
            found = self._right.get(seen)
        except TypeError:  # symbolic sizes cannot be hashed
            return self._compare(values, sizes)
        if found is None:
            found = self._compare(values, sizes)
            if len(self._right) >= REMEMBERED:
                self._right.clear()
            self._right[seen] = found
        return found

    def _compare(self, values: Sequence[Any], sizes: dict[str, int]) -> dict[str, int]:
        sizes, first, floating = dict(sizes), None, None
        for (name, leaf), x in zip(self.leaves.items(), values, strict=True):
            if x is None and leaf.optional:
                continue
            known = dict(sizes)
            if not isinstance(x, Tensor):
                raise self._error(name, f"is {type(x).__name__}; give a tensor")
            if not is_of(x.dtype, leaf.kind):
                raise self._error(name, f"is of dtype {x.dtype}; give a tensor of {leaf.kind}")
            if self.one_dtype and leaf.kind == "float":
                floating = floating or (name, x.dtype)
                if x.dtype != floating[1]:
                    raise self._error(
                        name, f"is of dtype {x.dtype}, {floating[0]} of {floating[1]}"
                    )
            if not leaf.shape.fits(x.shape, sizes):
                text = leaf.shape.text(known)
                raise self._error(name, f"is {list(x.shape)}; expected {text}")
            first = first or (name, x.device)
            if x.device != first[1]:
                raise self._error(name, f"is on {x.device}, {first[0]} on {first[1]}; move one")
        return sizes

    def _error(self, name: str, wrong: str) -> UserError:
        return UserError(f"{self.function}: {name} {wrong}")


def _look(x: Any) -> Any:
    """The properties of an argument that are checked, as a cache key."""
    return (x.shape, x.dtype, x.device) if isinstance(x, Tensor) else type(x)


def checked(function: Called) -> Called:
    """Decorate a function to check its tensors against their annotations at every call.

    Annotations of jaxtyping are checked, also in ``| None`` and in the fields of a NamedTuple.
    There are no checks under torch.compile, where our compiled code is not called.
    """
    parameters = inspect.signature(function).parameters
    names, leaves = tuple(parameters), dict[str, Leaf]()
    nested: dict[str, type] = {}
    for name, parameter in parameters.items():
        leaves.update(_leaves(name, parameter.annotation, nested))
    wanted = Wanted(getattr(function, "__name__", ""), leaves)

    @functools.wraps(function)
    def called(*args: Any, **kwargs: Any) -> Any:
        if not torch.compiler.is_compiling():
            given = dict(zip(names, args, strict=False)) | kwargs
            for name, kind in nested.items():
                if given.get(name) is not None:
                    given |= _fields(wanted, name, kind, given[name])
            wanted.verify(given)
        return function(*args, **kwargs)

    return typing.cast(Called, called)


def _fields(wanted: Wanted, name: str, kind: type, value: Any) -> dict[str, Any]:
    """The fields of a NamedTuple by their dotted names."""
    fields = getattr(kind, "_fields", ())
    if not isinstance(value, tuple) or len(value) != len(fields):
        raise UserError(
            f"{wanted.function}: {name} is {type(value).__name__}; give a {kind.__name__}"
        )
    return {f"{name}.{field}": x for field, x in zip(fields, value, strict=True)}


def _leaves(
    name: str, annotation: Any, nested: dict[str, type], optional: bool = False
) -> Iterator[tuple[str, Leaf]]:
    """The requirements that an annotation states for an argument, or for each of its fields."""
    if isinstance(annotation, types.UnionType):
        for part in typing.get_args(annotation):
            if part is not types.NoneType:
                yield from _leaves(name, part, nested, True)
    elif isinstance(annotation, type) and hasattr(annotation, "_fields"):
        nested[name] = annotation
        for field, of_field in typing.get_type_hints(annotation).items():
            yield from _leaves(f"{name}.{field}", of_field, {}, optional)
    elif (text := getattr(annotation, "dim_str", None)) is not None:
        yield name, Leaf(Shape.of(text), _kind(annotation.dtypes), optional)


def _kind(dtypes: Sequence[str]) -> str:
    """The kind of a list of jaxtyping dtypes."""
    return next(kind for kind in ("float", "int", "bool") if dtypes[0].startswith(kind))
