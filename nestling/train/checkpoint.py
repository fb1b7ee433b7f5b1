"""Checkpoints: folders of safetensors and JSON that are whole or not there."""

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
TOGETHER = 2  # of a divided model: every process has written its part
RECORD = "record.json"
_TENSOR = "__tensor__"


class OtherFormat(UserError):
    """A checkpoint that another version has written, and this one does not read."""


def flatten(tree: Any, prefix: str = "") -> tuple[Any, dict[str, Tensor]]:
    """Split a tree of dicts, lists and plain values into a JSON record and named tensors.

    A key that is an integer is written with a ``#`` before it, as JSON knows none.

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
    """Put a tree that ``flatten`` took apart together again; tuples come back as lists."""
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
    """Set every global random generator to what ``random_state`` gave."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, *rest = state["numpy"]
    numpy.random.set_state((name, numpy.array(keys, dtype="uint32"), *rest))
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])


def write_checkpoint(path: Path, parts: Mapping[str, Any]) -> Path:
    """Write each part (a tree) to ``path``, a folder that appears whole or not at all.

    A full disk or a missing permission raises UserError and leaves what was there before.
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
    """Move a finished draft to its place."""
    if not path.exists():
        os.replace(draft, path)
        return
    # no one move replaces a folder: the old one steps aside until the new is there
    os.replace(path, old := draft.with_name(draft.name + ".old"))
    os.replace(draft, path)
    shutil.rmtree(old)


def not_saved(path: Path, error: Exception) -> UserError:
    """What is said where a checkpoint cannot be written."""
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
    """Write a record with its seal, and have the disk hold all that is in the folder."""
    record["sha256"] = _sealed(record)
    with open(folder / RECORD, "w", encoding="utf-8") as target:
        json.dump(record, target)
    for file in folder.iterdir():
        with open(file, "rb") as handle:
            os.fsync(handle.fileno())


def _sealed(record: Mapping[str, Any]) -> str:
    """The hash of a record, which keeps it beside the rest."""
    rest = {name: value for name, value in record.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(rest).encode()).hexdigest()


def digest(file: Path) -> str:
    """The sha256 of a file."""
    with open(file, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read the parts of a checkpoint; one that is cut short or changed raises UserError."""
    try:
        record = json.loads((path / RECORD).read_text(encoding="utf-8"))
        if record["format"] not in (FORMAT, TOGETHER):
            raise OtherFormat(
                f"{path} has format {record['format']}, this version reads {FORMAT} and "
                f"{TOGETHER}; resume it with the version that wrote it"
            )
        # those of earlier versions have no seal
        if record.get("sha256", seal := _sealed(record)) != seal:
            raise OSError(errno.EIO, f"{RECORD} is changed")
        for file, written in record["files"].items():
            if digest(path / file) != written:
                raise OSError(errno.EIO, f"{file} is cut short or changed")
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
    """The newest checkpoint in a folder that is whole, with its parts; None where there is none.

    ``tell`` hears of each that is passed over, cut short or changed. Raises UserError where none is
    whole, or the newest is of another format.
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
            tell(f"{error}; now going on from the one before")
    return None


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a folder, oldest first."""
    return sorted(path for path in folder.glob("step-*") if path.is_dir())


def checkpoint_path(folder: Path, step: int) -> Path:
    """Where the checkpoint after ``step`` optimizer steps lives."""
    return folder / f"step-{step:08d}"


def keep_newest(folder: Path, count: int) -> None:
    """Delete all but the newest ``count`` checkpoints, and what was never finished."""
    for path in checkpoints(folder)[:-count]:
        shutil.rmtree(path, ignore_errors=True)
    for draft in folder.glob(".step-*"):  # of a process that was killed
        shutil.rmtree(draft, ignore_errors=True)


def model_tensors(model: torch.nn.Module) -> dict[str, Tensor]:
    """Parameters (each once, however often it is tied) and persistent buffers, by name."""
    named = dict(model.named_parameters())
    kept = model.state_dict()
    return named | {name: b for name, b in model.named_buffers() if name in kept}


def load_model_tensors(model: torch.nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Copy saved tensors into a model; another architecture raises UserError, nothing changed."""
    own = model_tensors(model)
    missing = sorted(set(own) ^ set(tensors))
    if missing:
        raise UserError(
            f"checkpoint {path} is of another architecture (it differs in {missing[0]}); "
            "choose the preset and options it was trained with"
        )
    for name, value in own.items():
        if value.shape != tensors[name].shape:
            raise UserError(
                f"checkpoint {path} is of another architecture ({name} is "
                f"{list(tensors[name].shape)}, here {list(value.shape)}); "
                "choose the preset and options it was trained with"
            )
    with torch.no_grad():
        for name, value in own.items():
            part(value).copy_(part(spread(tensors[name].to(value.device), value)))
