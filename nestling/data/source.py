"""A source of documents: how it is called, whose it is, and how it is read."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where the documents of a corpus come from."""

    name: str
    summary: str  # one line for `nestling data list`
    licence: str
    read: Callable[[], Iterable[str]]  # the documents, in an order that never changes
    version: Callable[[], str]  # changes whenever `read` would give something else; cheap
    packages: tuple[str, ...] = ()  # Debian packages that must be fetched first
