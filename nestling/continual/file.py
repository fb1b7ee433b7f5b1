"""Memory files: safetensors with a record and a checksum over both, written atomically."""

import contextlib
import glob
import json
import time
from pathlib import Path
from typing import Any, NamedTuple

import safetensors
import safetensors.torch
from torch import Tensor

from nestling.continual.digest import content_digest
from nestling.core.error import UserError
from nestling.core.result import write_whole

KIND = "nestling-learned"
STALE = 3600  # seconds
PLAIN = 1  # readable by the first nestling
# with nested levels or averages; raised when an older version could not read the file
FORMAT = 2
STUDIED = 3  # with studied documents
GIVEN = 4  # with a document waiting for study whose subject was given
NEWEST = GIVEN


class MemoryFile(NamedTuple):
    """The contents of a memory file."""

    about: dict[str, Any]  # base, levels, documents, versions: see nestling.continual.record
    tensors: dict[str, Tensor]


def write_memory(path: str | Path, memory: MemoryFile) -> Path:
    """Write a memory file atomically."""
    nested = any(level.get("share") is not None for level in memory.about.get("levels", ()))
    plain = not nested and not memory.about.get("options", {}).get("averages")
    studied = any(memory.about.get(name) for name in ("studied", "waiting", "open", "own"))
    given = any(len(one) > 3 for one in memory.about.get("waiting", ()))
    kind = GIVEN if given else STUDIED if studied else PLAIN if plain else FORMAT
    about = {**memory.about, "format": kind}
    tensors = {name: value.detach().cpu().contiguous() for name, value in memory.tensors.items()}
    header = {"about": about, "sha256": content_digest(about, tensors.items())}
    # one entry: safetensors writes several in arbitrary order
    entry = {KIND: json.dumps(header, sort_keys=True)}
    return write_whole(path, safetensors.torch.save(tensors, entry))


def read_memory(path: str | Path) -> MemoryFile:
    """Read a memory file; one that is truncated, altered, foreign or too new raises UserError."""
    path = Path(path)
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            entry = (file.metadata() or {}).get(KIND)
            if entry is None:
                raise UserError(f"{path} is not a memory file of `nestling learn`")
            header = json.loads(entry)
            about = header["about"]
            if about["format"] > NEWEST:
                raise UserError(f"{path} was written by a newer nestling; upgrade this one")
            # copies are aligned like torch's own tensors, so that sums have the same order
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
            whole = content_digest(about, tensors.items()) == header["sha256"]
    except FileNotFoundError as error:
        raise UserError(f"there is no memory file {path}; `nestling learn` writes one") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise damaged(path) from error
    if not whole:
        raise damaged(path)
    return MemoryFile(about, tensors)


def checksum(path: str | Path) -> str | None:
    """The checksum stated in a memory file, without reading its tensors; None if there is no file.

    "damaged" for a file that states none.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return str(json.loads((file.metadata() or {})[KIND])["sha256"])
    except FileNotFoundError:
        return None
    except (OSError, safetensors.SafetensorError, ValueError, KeyError, TypeError, RecursionError):
        return "damaged"


def sweep(path: str | Path) -> None:
    """Remove temporary files beside a memory file left by processes killed over an hour ago."""
    path = Path(path)
    for draft in path.parent.glob(f".{glob.escape(path.name)}.*"):
        with contextlib.suppress(OSError):
            if time.time() - draft.stat().st_mtime > STALE:
                draft.unlink()


def damaged(path: Path) -> UserError:
    """The error for a file with altered content."""
    return UserError(f"{path} is truncated or damaged; use another copy")
