"""Checks the structure of states: the parts that a memory keeps, and their shapes."""

import types
import typing
from collections.abc import Iterator, Mapping, Set
from types import MappingProxyType
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from nestling.core.error import UserError
from nestling.core.shapes import Dimension, Leaf, Shape, Wanted

INPUT, FLAG = Leaf(Shape.of("B T _"), "float", True), Leaf(Shape.of("B T"), "bool", True)


class Layout:
    """The structure of a memory's state, taken from an example with a single row.

    The batch is the first dimension of every tensor; other sizes are those of the example. A size
    that is zero in the example and annotated as growing may have any value, the same in all parts
    of a tuple where it has the same name. Parts that are missing in the example (None, an empty
    tuple) are not checked, except those in ``derived``: they must be None or have the shape of the
    part named there.
    """

    def __init__(
        self,
        name: str,
        example: Any,
        grows: Set[str] = frozenset(),
        derived: Mapping[str, str] = MappingProxyType({}),
    ):
        if derived:
            parts = {part: getattr(example, like) for part, like in derived.items()}
            example = example._replace(**parts)
        self.name, self.example = name, _without_numbers(example)
        self.may_lack = {f"state.{part}" for part in derived}
        parts = {
            path: leaf._replace(optional=path.startswith(tuple(self.may_lack)))
            for path, leaf in _parts(example, None, "state", grows)
        }
        self.fresh = Wanted(name, {"x": INPUT, "reset": FLAG, "mask": FLAG})
        self.wanted = Wanted(name, {"x": INPUT, **parts, "reset": FLAG, "mask": FLAG})

    def verify(
        self,
        state: Any,
        x: Float[Tensor, "B T D"] | None = None,
        reset: Tensor | None = None,
        mask: Tensor | None = None,
        **sizes: int,
    ) -> None:
        """Raise UserError for a state (None: a fresh one) or an input that does not fit.

        ``sizes`` gives B, the rows, and T, the tokens, if they are known.
        """
        given: dict[str, Any] = {"x": x, "reset": reset, "mask": mask}
        if state is None:
            self.fresh.verify(given, **sizes)
            return
        self._flatten(state, self.example, "state", given)
        self.wanted.verify(given, **sizes)

    def _flatten(self, state: Any, example: Any, path: str, into: dict[str, Any]) -> None:
        if example is None or example == () or (state is None and path in self.may_lack):
            return
        if isinstance(example, Tensor):
            into[path] = state
            return
        several = isinstance(state, tuple | list) and len(state) == len(example)
        if not several or (hasattr(example, "_fields") and type(state) is not type(example)):
            kind = type(example).__name__
            raise UserError(
                f"{self.name}: {path} is {type(state).__name__}; give a {kind} of {len(example)} "
                "parts, as returned by init_state(batch) or an earlier call"
            )
        fields = getattr(example, "_fields", range(len(example)))
        for field, part, like in zip(fields, state, example, strict=True):
            self._flatten(part, like, f"{path}.{field}", into)


def _without_numbers(example: Any) -> Any:
    """The same structure with tensors that take no memory."""
    if isinstance(example, Tensor):
        return torch.empty_like(example, device="meta")
    if isinstance(example, tuple | list):
        parts = [_without_numbers(part) for part in example]
        return type(example)(*parts) if hasattr(example, "_fields") else type(example)(parts)
    return example


def _parts(example: Any, hint: Any, path: str, grows: Set[str]) -> Iterator[tuple[str, Leaf]]:
    """Yield the requirements for each tensor of a state, by its dotted name."""
    if isinstance(example, Tensor):
        names = _names(hint, example.ndim)
        place = path.rpartition(".")[0]
        sizes = zip(example.shape[1:], names[1:], strict=True)
        dims = [
            Dimension(f"{place}.{name}") if not size and name in grows else Dimension(None, size)
            for size, name in sizes
        ]
        kind = "float" if example.is_floating_point() else str(example.dtype).split(".")[1]
        yield path, Leaf(Shape((Dimension("B"), *dims)), kind)
    elif isinstance(example, tuple | list):
        named = hasattr(example, "_fields")
        hints = typing.get_type_hints(type(example)) if named else {}
        fields = getattr(example, "_fields", range(len(example)))
        for field, part in zip(fields, example, strict=True):
            yield from _parts(part, hints.get(field), f"{path}.{field}", grows)


def _names(hint: Any, count: int) -> list[str]:
    """The names of the sizes in a jaxtyping annotation; "" for sizes without one."""
    if isinstance(hint, types.UnionType):
        hint = next(part for part in typing.get_args(hint) if part is not types.NoneType)
    names = str(getattr(hint, "dim_str", "")).split()
    return names if len(names) == count else [""] * count
