"""Checkpoints: folders of safetensors and JSON that appear complete or not at all."""

import errno
import hashlib
import json
import os
import random
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from nestling.core.error import UserError
from nestling.rules.newton_schulz import part, spread

FORMAT = 1
TOGETHER = 2  # format of a sharded model, written in parts by all processes
RECORD = "record.json"
_TENSOR = "__tensor__"


class OtherFormat(UserError):
    """A checkpoint in a format of another version, which this one cannot read."""


def flatten(tree: Any, prefix: str = "") -> tuple[Any, dict[str, Tensor]]:
    """Split a tree of dicts, lists and plain values into a JSON record and named tensors.

    An integer key is written with a leading ``#``, because JSON has only string keys.

    >>> flatten({"step": 3, "sums": [torch.ones(1)]})
    ({'step': 3, 'sums': [{'__tensor__': 'sums.0'}]}, {'sums.0': tensor([1.])})
    """
    if isinstance(tree, Tensor):
        return {_TENSOR: prefix}, {prefix: tree.detach()}
    if not isinstance(tree, Mapping | list | tuple):
        return tree, {}
    items = tree.items() if isinstance(tree, Mapping) else enumerate(tree)
    record: dict[str, Any] = {}
    tensors: dict[str, Tensor] = {}
    for key, item in items:
        name = f"#{key}" if isinstance(key, int) else key
        record[name], found = flatten(item, f"{prefix}.{key}" if prefix else str(key))
        tensors.update(found)
    return (record if isinstance(tree, Mapping) else list(record.values())), tensors


def unflatten(record: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The inverse of ``flatten``; tuples come back as lists."""
    if isinstance(record, list):
        return [unflatten(item, tensors) for item in record]
    if not isinstance(record, dict):
        return record
    if set(record) == {_TENSOR}:
        return tensors[record[_TENSOR]]
    return {
        int(key[1:]) if key.startswith("#") else key: unflatten(item, tensors)
        for key, item in record.items()
    }


def random_state() -> dict[str, Any]:
    """The state of every global random generator: Python, NumPy, torch and its devices."""
    version, internal, gauss = random.getstate()
    name, keys, position, has_gauss, cached = numpy.random.get_state(legacy=True)
    return {
        "python": [version, list(internal), gauss],
        "numpy": [name, numpy.asarray(keys).tolist(), position, has_gauss, cached],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_state(state: Mapping[str, Any]) -> None:
    """Restore every global random generator to a ``random_state``."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, *rest = state["numpy"]
    numpy.random.set_state((name, numpy.array(keys, dtype="uint32"), *rest))
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])


def write_checkpoint(path: Path, parts: Mapping[str, Any]) -> Path:
    """Write each part (a tree) to the folder ``path``, atomically.

    Raises UserError for a full disk or a missing permission; an earlier folder is then kept.
    """
    draft = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
        _fill(draft, parts)
        settle(draft, path)
    except (OSError, SafetensorError) as error:
        if draft is not None:
            shutil.rmtree(draft, ignore_errors=True)
        raise not_saved(path, error) from error
    return path


def settle(draft: Path, path: Path) -> None:
    """Move a finished draft to its final path."""
    if not path.exists():
        os.replace(draft, path)
        return
    # a folder cannot be replaced in one move: move the old one aside first
    os.replace(path, old := draft.with_name(draft.name + ".old"))
    os.replace(draft, path)
    shutil.rmtree(old)


def not_saved(path: Path, error: Exception) -> UserError:
    """The error for a checkpoint that cannot be written."""
    reason = getattr(error, "strerror", None) or str(error)
    return UserError(
        f"cannot save {path} ({reason}); free some space or choose a folder you may write to"
    )


def _fill(folder: Path, parts: Mapping[str, Any]) -> None:
    record: dict[str, Any] = {"format": FORMAT, "parts": {}, "files": {}}
    for name, tree in parts.items():
        record["parts"][name], tensors = flatten(tree)
        file = folder / f"{name}.safetensors"
        save_file({key: t.clone().contiguous() for key, t in tensors.items()}, file)
        record["files"][file.name] = digest(file)
    write_record(folder, record)


def write_record(folder: Path, record: dict[str, Any]) -> None:
    """Write a record with its hash, and flush everything in the folder to disk."""
    record["sha256"] = _sealed(record)
    with open(folder / RECORD, "w", encoding="utf-8") as target:
        json.dump(record, target)
    for file in folder.iterdir():
        with open(file, "rb") as handle:
            os.fsync(handle.fileno())


def _sealed(record: Mapping[str, Any]) -> str:
    """The hash of a record without the hash it contains."""
    rest = {name: value for name, value in record.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(rest).encode()).hexdigest()


def digest(file: Path) -> str:
    """The sha256 of a file."""
    with open(file, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read the parts of a checkpoint. Raises UserError if it is truncated or changed."""
    try:
        record = json.loads((path / RECORD).read_text(encoding="utf-8"))
        if record["format"] not in (FORMAT, TOGETHER):
            raise OtherFormat(
                f"{path} has format {record['format']}; this version reads {FORMAT} and "
                f"{TOGETHER}; resume it with the version that wrote it"
            )
        # checkpoints of earlier versions have no hash
        if record.get("sha256", seal := _sealed(record)) != seal:
            raise OSError(errno.EIO, f"{RECORD} has changed")
        for file, written in record["files"].items():
            if digest(path / file) != written:
                raise OSError(errno.EIO, f"{file} is truncated or changed")
        tensors = _tensors_of(path, record)
        return {name: unflatten(tree, tensors[name]) for name, tree in record["parts"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(
            f"checkpoint {path} cannot be read ({reason}); delete it to resume from the one before"
        ) from error


def _tensors_of(path: Path, record: Mapping[str, Any]) -> dict[str, dict[str, Tensor]]:
    """The tensors of each part."""
    if record["format"] == FORMAT:
        return {name: load_file(path / f"{name}.safetensors") for name in record["parts"]}
    from nestling.train.sharded_files import read_tensors

    found: dict[str, dict[str, Tensor]] = {name: {} for name in record["parts"]}
    for key, tensor in read_tensors(path).items():
        name, _, inside = key.partition("/")
        found[name][inside] = tensor
    return found


def read_newest(
    folder: Path, tell: Callable[[str], None] = lambda _: None
) -> tuple[Path, dict[str, Any]] | None:
    """The newest complete checkpoint in a folder, with its parts; None if there are none.

    ``tell`` is called with a message for each one that is skipped because it is truncated or
    changed. Raises UserError if none is complete, or if the newest has another format.
    """
    found = checkpoints(folder)
    for path in reversed(found):
        try:
            return path, read_checkpoint(path)
        except OtherFormat:
            raise
        except UserError as error:
            if path == found[0]:
                raise
            tell(f"{error}; continuing from the previous one")
    return None


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a folder, oldest first."""
    return sorted(path for path in folder.glob("step-*") if path.is_dir())


def checkpoint_path(folder: Path, step: int) -> Path:
    """The path of the checkpoint after ``step`` optimizer steps."""
    return folder / f"step-{step:08d}"


def keep_newest(folder: Path, count: int) -> None:
    """Delete all but the newest ``count`` checkpoints, and unfinished ones."""
    for path in checkpoints(folder)[:-count]:
        shutil.rmtree(path, ignore_errors=True)
    for draft in folder.glob(".step-*"):  # left by a killed process
        shutil.rmtree(draft, ignore_errors=True)


def model_tensors(model: torch.nn.Module) -> dict[str, Tensor]:
    """Parameters (tied ones once) and persistent buffers, by name."""
    named = dict(model.named_parameters())
    kept = model.state_dict()
    return named | {name: b for name, b in model.named_buffers() if name in kept}


def load_model_tensors(model: torch.nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Copy saved tensors into a model.

    Raises UserError for another architecture, before anything is changed.
    """
    own = model_tensors(model)
    missing = sorted(set(own) ^ set(tensors))
    if missing:
        raise UserError(
            f"checkpoint {path} has another architecture ({missing[0]} is in only one of them); "
            "use the preset and options it was trained with"
        )
    for name, value in own.items():
        if value.shape != tensors[name].shape:
            raise UserError(
                f"checkpoint {path} has another architecture ({name} is "
                f"{list(tensors[name].shape)}, here {list(value.shape)}); "
                "use the preset and options it was trained with"
            )
    with torch.no_grad():
        for name, value in own.items():
            part(value).copy_(part(spread(tensors[name].to(value.device), value)))
