"""Compares two Results of one benchmark, figure by figure."""

from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Any

from nestling.core.error import UserError
from nestling.core.result import Result


def numbers(value: Any, prefix: str = "") -> Iterator[tuple[str, float]]:
    """Every number in a tree of dicts and lists, with its dotted name.

    >>> dict(numbers({"a": {"b": 1}, "c": [2.5, "text"], "d": True}))
    {'a.b': 1.0, 'c.0': 2.5}
    """
    if isinstance(value, dict | list):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for name, item in pairs:
            yield from numbers(item, f"{prefix}.{name}" if prefix else str(name))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield prefix, float(value)


def compare(first: Result, second: Result, only: str = "*") -> list[tuple[str, float, float]]:
    """(name, first value, second value) of every figure in both; ``only`` is a shell pattern.

    Raises UserError for Results of different benchmarks, or without a common figure.
    """
    if first.name != second.name:
        raise UserError(
            f"one is a Result of `{first.name}`, the other of `{second.name}`; "
            "give two of the same benchmark"
        )
    other = dict(numbers(second.metrics))
    both = [(name, value, other[name]) for name, value in numbers(first.metrics) if name in other]
    found = [row for row in both if fnmatchcase(row[0], only)]
    if not found:
        raise UserError(f"no figure that matches {only!r} is in both Results; try --only '*'")
    return found


def differences(first: Result, second: Result) -> list[str]:
    """The differences in how the two were measured, one line each."""
    return [
        f"{kind} {name}: {one.get(name)} | {two.get(name)}"
        for kind, one, two in (
            ("config", first.config, second.config),
            ("provenance", first.provenance, second.provenance),
        )
        for name in sorted({*one, *two})
        if one.get(name) != two.get(name) and name != "date"
    ]
