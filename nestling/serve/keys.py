"""API keys: their scopes and namespaces. Only the hash of a key is stored."""

import hashlib
import hmac
import re
import secrets
import time
from pathlib import Path
from typing import NamedTuple

from nestling.core.error import UserError
from nestling.serve.database import Database

SCOPES = {
    "ask": "answers; showing and comparing memories and jobs",
    "learn": "new memories, learning and cancelling it, forks, merges, consolidation, undo",
    "files": "download, upload and delete of memories",
}
HEAD = "nk"  # prefix of keys
DATABASE = "server.sqlite"
ALONE = "local"  # the namespace used without keys
NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")


def database_in(store: Path) -> Database:
    """The registry in a store."""
    return Database(store / DATABASE)


class Caller(NamedTuple):
    """The caller of a request."""

    key: str  # its id, for logs and limits
    space: str
    scopes: frozenset[str]


def anyone() -> Caller:
    """The caller on a server without keys."""
    return Caller("", ALONE, frozenset(SCOPES))


def check_name(name: str, what: str) -> str:
    """The name, if it is short and plain; otherwise raises UserError.

    >>> check_name("notes-2", "id")
    'notes-2'
    """
    if not NAME.fullmatch(name):
        raise UserError(
            f"the {what} must be 1 to 64 of a-z, 0-9, _ . and -, and begin with a letter or digit"
        )
    return name


class Keys:
    """The keys of a server."""

    def __init__(self, database: Database):
        self.database = database

    def any(self) -> bool:
        """Whether there are keys, so that requests need one."""
        return self.database.one("SELECT 1 FROM keys") is not None

    def add(self, name: str, *, space: str, scopes: frozenset[str]) -> str:
        """Create a key; it is shown only now."""
        check_name(name, "name of a key")
        check_name(space, "name space")
        if unknown := sorted(scopes - set(SCOPES)):
            raise UserError(f"unknown scope {unknown[0]!r}; choose from:  {', '.join(SCOPES)}")
        if not scopes:
            raise UserError(f"a key needs a scope: {', '.join(SCOPES)}")
        if self.database.one("SELECT 1 FROM keys WHERE name = ?", [name]):
            raise UserError(f"there is a key {name!r} already; remove it or choose another name")
        number, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
        self.database.change(
            "INSERT INTO keys VALUES (?, ?, ?, ?, ?, ?)",
            [number, name, _hash(secret), space, ",".join(sorted(scopes)), time.time()],
        )
        return f"{HEAD}-{number}-{secret}"

    def remove(self, name: str) -> None:
        """Revoke a key; its memories stay in their namespace."""
        if not self.database.change("DELETE FROM keys WHERE name = ?", [name]):
            known = ", ".join(row["name"] for row in self.list()) or "none"
            raise UserError(f"there is no key {name!r}; known: {known}")

    def list(self) -> list:
        """All keys, without their secrets."""
        return self.database.all("SELECT name, space, scopes, created FROM keys ORDER BY created")

    def caller(self, given: str | None) -> Caller | None:
        """The caller of a key, or None; takes equally long for a wrong and a right secret."""
        head, _, rest = (given or "").partition("-")
        number, _, secret = rest.partition("-")
        row = self.database.one("SELECT * FROM keys WHERE id = ?", [number])
        there = bytes(32) if row is None else row["hash"]
        right = hmac.compare_digest(there, _hash(secret))
        if row is None or not right or head != HEAD:
            return None
        return Caller(row["id"], row["space"], frozenset(row["scopes"].split(",")))


def _hash(secret: str) -> bytes:
    # 32 random bytes need no slow hash
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()
