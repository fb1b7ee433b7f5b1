"""Tables of names whose entries are imported when first used."""

import importlib
from collections.abc import Mapping
from typing import Any

from nestling.core.error import UserError, did_you_mean


class Registry:
    """A table ``name -> "module:attribute"``; an entry is imported when it is loaded.

    ``former`` maps names of earlier versions to current ones; they still load, but are not listed.

    >>> tables = Registry("colour", {"red": "colorsys:rgb_to_hsv"}, former={"rouge": "red"})
    >>> tables.names()
    ['red']
    >>> tables.load("red").__name__, tables.load("rouge").__name__
    ('rgb_to_hsv', 'rgb_to_hsv')
    """

    def __init__(self, kind: str, table: Mapping[str, str], *, former: Mapping[str, str] = {}):
        self.kind = kind
        self._table, self._former = dict(table), dict(former)

    def names(self) -> list[str]:
        """The known names, in the order of the table."""
        return list(self._table)

    def current(self, name: str) -> str:
        """The current name of an entry, also for a name of an earlier version."""
        return name if name in self._table else self._former.get(name, name)

    def load(self, name: str) -> Any:
        """Import and return an entry. Raises UserError for an unknown name, naming the nearest."""
        name = self.current(name)
        if name not in self._table:
            raise UserError(f"unknown {self.kind} {name!r}: {did_you_mean(name, self._table)}")
        module, attribute = self._table[name].split(":")
        return getattr(importlib.import_module(module), attribute)
