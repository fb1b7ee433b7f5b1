"""nestling keys: the API keys of a server."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

STORE = Path("serve")


@dataclass(frozen=True, kw_only=True)
class Add:
    """Create a key and print it, once; a running server accepts it at once."""

    name: tyro.conf.Positional[str]
    """Name of the key."""
    store: Path = STORE
    """The store of the server."""
    space: str = ""
    """Namespace of its memories, which keys may share; by default the key's name."""
    scopes: str = "ask,learn,files"
    """What it may do: ask (get answers), learn (create memories, learn, fork, undo), files
    (download, upload, delete)."""

    def run(self) -> None:
        """Print the key."""
        from nestling.serve.keys import Keys, database_in

        scopes = frozenset(filter(None, map(str.strip, self.scopes.split(","))))
        keys = Keys(database_in(self.store))
        print(keys.add(self.name, space=self.space or self.name, scopes=scopes))


@dataclass(frozen=True, kw_only=True)
class List:
    """List all keys, without their secrets, which are not stored."""

    store: Path = STORE
    """The store of the server."""

    def run(self) -> None:
        """Print a table."""
        from nestling.report import Table
        from nestling.serve.keys import Keys, database_in

        rows = [
            (row["name"], row["space"], row["scopes"])
            for row in Keys(database_in(self.store)).list()
        ]
        print(Table(columns=("key", "name space", "scopes"), rows=rows).text())


@dataclass(frozen=True, kw_only=True)
class Remove:
    """Revoke a key at once; the memories of its namespace stay."""

    name: tyro.conf.Positional[str]
    """The key's name."""
    store: Path = STORE
    """The store of the server."""

    def run(self) -> None:
        """Revoke it."""
        from nestling.serve.keys import Keys, database_in

        Keys(database_in(self.store)).remove(self.name)
        print(f"{self.name} is removed")


Command = (
    Annotated[Add, tyro.conf.subcommand("add")]
    | Annotated[List, tyro.conf.subcommand("list")]
    | Annotated[Remove, tyro.conf.subcommand("remove")]
)
