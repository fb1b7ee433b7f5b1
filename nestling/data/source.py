"""A source of documents: its name, its licence, and how to read it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where the documents of a corpus come from."""

    name: str
    summary: str  # one line for `nestling data list`
    licence: str
    read: Callable[[], Iterable[str]]  # the documents, in an order that never changes
    version: Callable[[], str]  # cheap; changes whenever the output of `read` changes
    packages: tuple[str, ...] = ()  # Debian packages that must be fetched first
