"""The JSON record of a measurement, and atomic writing of files."""

import dataclasses
import datetime
import json
import os
import platform
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from nestling.core.build import commit, release
from nestling.core.error import UserError

FORMAT = 1


def provenance(device: str = "cpu") -> dict[str, Any]:
    """The provenance of a figure: commit, versions, device, threads, date."""
    cuda = device.startswith("cuda") and torch.cuda.is_available()
    return {
        "commit": commit(),
        "versions": {
            "python": platform.python_version(),
            **{name: release(name) for name in ("nestling", "torch", "transformers")},
        },
        "device": torch.cuda.get_device_name() if cuda else platform.machine(),
        "threads": torch.get_num_threads(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


@dataclass(kw_only=True)
class Result:
    """One measurement: its name, configuration, provenance and metrics."""

    name: str
    config: dict[str, Any]
    metrics: dict[str, Any]
    seed: int | None = None
    corpus: str | None = None  # name and hash of the text
    provenance: dict[str, Any] = field(default_factory=provenance)
    format: int = FORMAT

    def write(self, path: str | Path) -> Path:
        """Write as JSON, atomically."""
        return write_json(path, dataclasses.asdict(self))

    @classmethod
    def read(cls, path: str | Path) -> "Result":
        """Read a Result. Raises UserError for a truncated file or one of another kind."""
        try:
            record = json.loads(Path(path).read_text(encoding="utf-8"))
            return cls(**record)
        except (OSError, ValueError, TypeError) as error:
            raise UserError(f"{path} is not a Result ({error}); delete it and run again") from error


def write_json(path: str | Path, record: Any) -> Path:
    """Write a record as JSON, atomically. Raises UserError if the path cannot be written."""
    text = json.dumps(record, indent=2, sort_keys=True, default=str) + "\n"
    return write_whole(path, text.encode())


def write_whole(path: str | Path, content: bytes) -> Path:
    """Write ``content`` atomically: to a temporary file, which is then moved to ``path``."""
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            # mkstemp sets private permissions; use those of a file made by open()
            umask = os.umask(0)
            os.umask(umask)
            os.chmod(draft, 0o666 & ~umask)
            os.replace(draft, path)
        except OSError:
            Path(draft).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror}; choose a writable folder with free space"
        ) from error
    return path
