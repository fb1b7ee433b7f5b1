"""The cache of fetched and derived files. Files appear complete or not at all."""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from nestling.core.error import UserError
from nestling.core.result import write_whole


def cache_folder() -> Path:
    """The folder for fetched packages, corpora, tokenizers and tokens.

    ``$NESTLING_DATA`` if set, otherwise ``~/.cache/nestling``.
    """
    chosen = os.environ.get("NESTLING_DATA")
    return Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "nestling"


def keep(path: Path, content: bytes) -> Path:
    """Write a cached file atomically. Raises UserError if the folder cannot be written."""
    try:
        return write_whole(path, content)
    except UserError as error:
        raise UserError(f"{error} (NESTLING_DATA names the folder of the cache)") from error


def damaged(path: Path, reason: object) -> UserError:
    """The error for a cached file whose content has changed since it was written."""
    return UserError(f"{path} is damaged ({reason}); delete it and run again")


def digest(parts: Iterable[str | bytes]) -> str:
    """Sha256 over parts, each preceded by its length, so that the cuts between them count.

    >>> digest(["ab", "c"]) == digest(["a", "bc"])
    False
    """
    total = hashlib.sha256()
    for part in parts:
        content = part if isinstance(part, bytes) else part.encode()
        total.update(len(content).to_bytes(8, "big"))
        total.update(content)
    return total.hexdigest()


def stamp(paths: Iterable[Path]) -> str:
    """Digest of the names, sizes and modification times of files, without reading them."""
    facts = []
    for path in paths:
        about = path.stat()
        facts.append(f"{path}|{about.st_size}|{about.st_mtime_ns}")
    return digest(facts)
