"""Uploaded memory files: their declarations are checked before use."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from nestling.continual.file import KIND, read_memory
from nestling.core.error import UserError
from nestling.serve.model import Served

HEADER = 16_000_000  # bytes of the header that declares the tensors
SIZES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1,
    "BOOL": 1,
}  # fmt: skip
FOREIGN = "this file is not a memory of the served model"


def inspect(file: Path, served: Served) -> None:
    """Raise UserError unless a file is a valid memory of this model, without open periods."""
    declared = declared_in(file)
    own = dict(served.learner.reader.model.named_parameters())
    for name, shape in declared.items():
        _fits(name, shape, declared, own)
    memory = read_memory(file)
    if memory.about.get("waiting") or memory.about.get("open"):
        raise UserError("this memory has an unfinished study; finish it with `nestling learn`")
    for name, value in memory.tensors.items():
        if name.endswith(":shape"):
            parameter = own.get(_parameter(name))
            if parameter is None or value.tolist() != list(parameter.shape):
                raise UserError(FOREIGN)
    learner = served.teacher.fork()
    try:
        learner.load(file)
        for one in learner.state.studied:
            for factors in one.change.values():
                if factors.left.shape[-1] != factors.right.shape[0]:
                    raise UserError(FOREIGN)
        learner.weights()
        _texts(memory.about)
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise UserError(FOREIGN) from error


def declared_in(file: Path) -> dict[str, tuple[int, ...]]:
    """The shapes that a safetensors file declares, if they agree with its size."""
    whole = os.path.getsize(file)
    with file.open("rb") as opened:
        size = int.from_bytes(opened.read(8), "little")
        if whole < 8 or not 2 <= size <= min(HEADER, whole - 8):
            raise UserError(FOREIGN)
        try:
            header = json.loads(opened.read(size))
            entries = {k: v for k, v in header.items() if k != "__metadata__"}
            if KIND not in header["__metadata__"]:
                raise UserError(FOREIGN)
            shapes = {name: tuple(entry["shape"]) for name, entry in entries.items()}
            bytes_ = [_bytes(entry) for entry in entries.values()]
        except (LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise UserError(FOREIGN) from error
    if sum(bytes_) != whole - 8 - size:
        raise UserError(FOREIGN)
    return shapes


def _bytes(entry: Mapping[str, Any]) -> int:
    shape, (begin, end) = entry["shape"], entry["data_offsets"]
    if any(type(number) is not int or number < 0 for number in (*shape, begin, end)):
        raise ValueError
    size = math.prod(shape) * SIZES[entry["dtype"]]
    if size != end - begin:
        raise ValueError
    return size


def _parameter(name: str) -> str:
    """The model's parameter that a level's tensor belongs to."""
    parts = name.partition(":")[0].split(".")
    return ".".join(parts[4 if parts[2] in ("buffer", "average") else 3 :])


def _fits(
    name: str,
    shape: tuple[int, ...],
    declared: Mapping[str, tuple[int, ...]],
    own: Mapping[str, Tensor],
) -> None:
    """Raise UserError unless a tensor fits this model and unpacks to no more than a parameter."""
    kind = name.partition(".")[0]
    if kind == "study":
        _, _, side, parameter = name.split(".", 3)
        there = own.get(parameter)
        at = {"left": 0, "right": -1}.get(side)
        if there is None or at is None or len(shape) != 2 or shape[at] != there.shape[at]:
            raise UserError(FOREIGN)
    elif kind == "level":
        there = own.get(_parameter(name)) if name.count(".") > 2 else None
        if there is None:
            raise UserError(FOREIGN)
        _, _, form = name.partition(":")
        factor = (
            form.startswith(("left", "right")) or ".gram." in name or form in ("shape", "scale")
        )
        if not factor and form != "left:scale" and shape != tuple(there.shape):
            raise UserError(FOREIGN)
        if factor and math.prod(shape) > max(there.numel(), max(there.shape) ** 2):
            raise UserError(FOREIGN)
    elif kind not in ("context", "open"):
        raise UserError(FOREIGN)


def _texts(about: Mapping[str, Any]) -> None:
    """Raise UserError unless the lists of the record are well-formed."""
    for name, digest, tokens, read in about["documents"]:
        if (type(name), type(digest), type(tokens), type(read)) != (str, str, int, int):
            raise TypeError
    for record in about.get("studied", ()):
        told = (record["name"], record["sha256"], record.get("about", ""), *record.get("topic", ()))
        if not all(isinstance(part, str) for part in told):
            raise TypeError
        if not all(isinstance(value, float | int) for value in record["figures"].values()):
            raise TypeError
        for question in record["questions"]:
            if not all(isinstance(part, str) for part in question[:3]):
                raise TypeError
