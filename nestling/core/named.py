"""Named tuples that torch.compile can follow."""

from typing import Any, TypeVar

T = TypeVar("T", bound=type)


def traceable(cls: T) -> T:
    """Give a named tuple a ``_replace`` that torch.compile traces.

    The compiler of torch 2.11 returns a tuple without fields from that of ``typing.NamedTuple``.

    >>> from typing import NamedTuple
    >>> @traceable
    ... class Pair(NamedTuple):
    ...     first: int
    ...     second: int = 0
    >>> Pair(1)._replace(second=2), Pair(1)._replace()
    (Pair(first=1, second=2), Pair(first=1, second=0))
    >>> Pair(1)._replace(third=3)
    Traceback (most recent call last):
        ...
    ValueError: Got unexpected field names: ['third']
    """
    named: Any = cls
    named._replace = _replaced
    return cls


def _replaced(self: Any, /, **changes: Any) -> Any:
    values = [changes.pop(name, old) for name, old in zip(self._fields, self, strict=True)]
    if changes:
        raise ValueError(f"Got unexpected field names: {list(changes)}")
    return type(self)(*values)
