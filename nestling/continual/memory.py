"""Memory files without their model: show, merge, reset and copy them."""

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from nestling.continual.file import MemoryFile, read_memory, write_memory
from nestling.continual.record import begin_name, moved_name, tensor_names
from nestling.continual.state import no_level
from nestling.continual.storage import EXACT, pack, parse_storage, unpack
from nestling.continual.study.record import (
    change_tensors,
    find_studied,
    studied_of,
    studied_record,
)
from nestling.core.error import UserError
from nestling.data.lock import locked
from nestling.models.pretrained import LevelSpec

Moved = dict[str, Tensor]  # a level's movement, by the names of its parameters


def level_moved(memory: MemoryFile, index: int) -> Moved:
    """How far a level has moved, for each parameter that it has moved."""
    return _level_tensors(memory, index, moved_name)


def _level_tensors(memory: MemoryFile, index: int, named: Callable[[int, str], str]) -> Moved:
    found = {}
    for name in memory.about["levels"][index]["parameters"]:
        value = unpack(named(index, name), memory.tensors)
        if value is not None:
            found[name] = value
    return found


def length(moved: Moved) -> float:
    """The Euclidean norm of everything a level has moved."""
    return math.sqrt(sum(float(value.double().square().sum()) for value in moved.values()))


def level_name(record: dict[str, Any]) -> str:
    """A level in the syntax of `--levels`."""
    return LevelSpec.of(record).text


def show(memory: MemoryFile) -> list[tuple[str, str]]:
    """The contents of a memory file, as names and values."""
    about, stream = memory.about, memory.about["stream"]
    waits = len(stream["open_ids"])
    sizes = sum(value.numel() * value.element_size() for value in memory.tensors.values())
    rows = [
        ("base", f"{about['architecture']} {about['base'][:16]}, {about['variant']}"),
        ("versions", ", ".join(f"{name} {number}" for name, number in about["versions"].items())),
        ("storage", f"{about['storage']}, {sizes:,} bytes of tensors"),
        ("tokens read", f"{stream['tokens'] + waits:,}, of which {waits} wait for their segment"),
        ("reading", ", ".join(f"{k} {v}" for k, v in about["options"].items())),
    ]
    for name, _, text, *_ in about.get("waiting", ()):
        rows.append(("waits for study", f"{name or '-'}, {len(text):,} characters"))
    for number, one in enumerate(about.get("studied", ())):
        rows.append((f"studied {number}", describe(one)))
    for index, record in enumerate(about["levels"]):
        moved = level_moved(memory, index)
        begins = length(_level_tensors(memory, index, begin_name))
        nested = "" if record.get("share") is None else f" since its reset to {begins:.4g}"
        open_for = record["seen"] % record["period"] if record["period"] else 0
        rows.append(
            (
                f"level {index}",
                f"{level_name(record)}: {record['writes']} writes{nested}, moved "
                f"{length(moved):.4g} in {len(moved)} of {len(record['parameters'])} tensors, "
                f"{open_for} tokens of its period gathered",
            )
        )
    for name, digest, tokens, read in about["documents"]:
        part = "" if read == tokens else f", interrupted at {read}"
        rows.append(("document", f"{name or '-'} {digest[:12]}, {tokens:,} tokens{part}"))
    return rows


def describe(one: dict[str, Any]) -> str:
    """One line about a studied document in a memory file."""
    figures = one["figures"]
    missing = f", not covered: {', '.join(one['missing'])}" if one["missing"] else ""
    return (
        f"{one['name'] or '-'} {one['sha256'][:12]}: {len(one['questions'])} questions, right "
        f"{figures['right_before']:.0f} before and {figures['right_after']:.0f} after of "
        f"{figures['asked']:.0f}{missing}"
    )


def merge(memories: Sequence[MemoryFile], weights: Sequence[float] | None = None) -> MemoryFile:
    """A memory file whose levels have moved by the weighted sum of the others' moves.

    Weights are 1 by default, which adds up what the memories learned separately. Open periods,
    moments and contexts are left out; periods start over.

    Source: arXiv 2212.04089 (task arithmetic). Deviates: nothing.
    """
    check_alike(memories)
    shares = [1.0] * len(memories) if weights is None else list(weights)
    if len(shares) != len(memories):
        raise UserError(
            f"{len(memories)} memory files, but {len(shares)} weights; give one weight per file"
        )
    tensors: dict[str, Tensor] = {}
    for index, record in enumerate(memories[0].about["levels"]):
        for named in tensor_names(memories[0].about):
            parts = [_level_tensors(memory, index, named) for memory in memories]
            for name in record["parameters"]:
                pairs = zip(shares, parts, strict=True)
                found = [share * part[name].float() for share, part in pairs if name in part]
                if found:
                    total = sum(found)
                    assert isinstance(total, Tensor)
                    tensors[named(index, name)] = total
    documents = {
        document[1]: document for memory in memories for document in memory.about["documents"]
    }
    tokens = sum(memory.about["stream"]["tokens"] for memory in memories)
    about = at_rest(memories[0].about, "exact")
    about["documents"] = list(documents.values())
    about.pop("waiting", None)
    if waiting := _merge_waiting(memories):
        about["waiting"] = waiting
    about["studied"], changes = _merge_studied(memories, shares)
    tensors |= changes
    about["stream"]["tokens"] = tokens
    return MemoryFile(about, tensors)


def _merge_waiting(memories: Sequence[MemoryFile]) -> list[list[str]]:
    """The documents waiting for study in any of them, once each, unless studied in another."""
    studied = {one["sha256"] for memory in memories for one in memory.about.get("studied", ())}
    waiting = [one for memory in memories for one in memory.about.get("waiting", ())]
    return list({one[1]: one for one in waiting if one[1] not in studied}.values())


def _merge_studied(
    memories: Sequence[MemoryFile], shares: Sequence[float]
) -> tuple[list[dict[str, Any]], dict[str, Tensor]]:
    """The studied documents of all of them, in order, once each."""
    records: list[dict[str, Any]] = []
    tensors: dict[str, Tensor] = {}
    for share, memory in zip(shares, memories, strict=True):
        for number, record in enumerate(memory.about.get("studied", ())):
            if any(record["sha256"] == other["sha256"] for other in records):
                continue
            for name in record["maps"]:
                alone = record.get("alone", False)  # used by itself, so never in part
                for side, scale in (("left", 1.0 if alone else share), ("right", 1.0)):
                    value = memory.tensors[f"study.{number}.{side}.{name}"]
                    tensors[f"study.{len(records)}.{side}.{name}"] = value * scale
            records.append(record)
    return records, tensors


def forgotten(memory: MemoryFile, document: str | None) -> tuple[MemoryFile, str]:
    """The memory file without what one document taught (None: the last), and that one's name.

    What the levels learned while reading it stays, as it cannot be separated.
    """
    records = list(memory.about.get("studied", ()))
    placed = [studied_of(n, record, memory.tensors) for n, record in enumerate(records)]
    if not placed:
        raise UserError("nothing in this memory file was studied, so there is nothing to forget")
    gone = len(placed) - 1 if document is None else find_studied(placed, document)
    tensors = {k: v for k, v in memory.tensors.items() if not k.startswith("study.")}
    left = [one for number, one in enumerate(placed) if number != gone]
    for number, one in enumerate(left):
        tensors.update(change_tensors(number, one))
    digest = placed[gone].sha256
    about = {**memory.about, "studied": [studied_record(one) for one in left]}
    about["documents"] = [old for old in about["documents"] if old[1] != digest]
    return MemoryFile(about, tensors), placed[gone].name or digest[:12]


def at_rest(about: dict[str, Any], storage: str) -> dict[str, Any]:
    """The record of a memory file without open periods."""
    rest = {"terms": 0.0, "seen": 0, "writes": 0}
    stream = {"open_ids": [], "open_starts": [], "last": None, "window": []}
    kept = {name: value for name, value in about.items() if name != "open"}
    return {
        **kept,
        "storage": storage,
        "levels": [{**record, **rest} for record in about["levels"]],
        "stream": {**about["stream"], **stream},
    }


def reset(memory: MemoryFile, level: int | None = None) -> MemoryFile:
    """The memory file with a level (by number, 0 the slowest) reset to the base; None: all of it.

    Resetting all of it also forgets the documents.
    """
    records = memory.about["levels"]
    if level is None:
        about = at_rest(memory.about, "exact")
        about["documents"] = []
        about["stream"]["tokens"] = 0
        about = {k: v for k, v in about.items() if k not in ("studied", "waiting", "own")}
        return MemoryFile(about, {})
    if not 0 <= level < len(records):
        raise no_level(level, len(records))
    head = f"level.{level}."
    tensors = {name: value for name, value in memory.tensors.items() if not name.startswith(head)}
    changed = [
        {**record, "terms": 0.0, "writes": 0} if index == level else record
        for index, record in enumerate(records)
    ]
    return MemoryFile({**memory.about, "levels": changed}, tensors)


class Fork(NamedTuple):
    """What a smaller form saves and loses."""

    before: int  # bytes
    after: int  # bytes
    error: float  # norm of the error, as a fraction of the movement


def fork(source: Path, target: Path, storage: str | None = None) -> Fork:
    """Copy a memory file after verifying it; with ``storage`` ("16bit", "rank:R"), in a smaller
    form.

    A smaller form stores what has moved, without open periods and moments.
    """
    with locked(target, "nestling memory fork"):
        return _fork(source, target, storage)


def _fork(source: Path, target: Path, storage: str | None) -> Fork:
    memory = read_memory(source)
    if target.exists():
        raise UserError(f"{target} already exists; choose another name")
    before = source.stat().st_size
    if storage is None:
        write_memory(target, memory)
        return Fork(before, target.stat().st_size, 0.0)
    form = parse_storage(storage)
    if form.form != EXACT and memory.about.get("studied") and not memory.about["levels"]:
        raise UserError(f"{source} was learned by study and has no smaller form; leave out storage")
    tensors = {k: v for k, v in memory.tensors.items() if k.startswith("study.")}
    lost, all_of_it = 0.0, 0.0
    for name, value in _all_moved(memory):
        parts = pack(name, value, form)
        again = unpack(name, parts)
        assert again is not None
        lost += float((value - again).double().square().sum())
        all_of_it += float(value.double().square().sum())
        tensors.update(parts)
    write_memory(target, MemoryFile(at_rest(memory.about, storage), tensors))
    error = math.sqrt(lost / all_of_it) if all_of_it else 0.0
    return Fork(before, target.stat().st_size, error)


def _all_moved(memory: MemoryFile) -> Iterator[tuple[str, Tensor]]:
    """What the levels have moved, the starting points of nested ones, and the averages."""
    for index in range(len(memory.about["levels"])):
        for named in tensor_names(memory.about):
            for name, value in _level_tensors(memory, index, named).items():
                yield named(index, name), value


def check_alike(memories: Sequence[MemoryFile]) -> None:
    """Raise UserError unless the memory files have the same base and the same levels."""
    about = [memory.about for memory in memories]
    if len({record["base"] for record in about}) > 1:
        raise UserError("these memory files are of different base models; they cannot be compared")
    periods = {
        str([(level["period"], level.get("share")) for level in record["levels"]])
        for record in about
    }
    if len(periods) > 1:
        raise UserError("these memory files have different levels; they cannot be compared")
    if len({str(record["options"].get("averages")) for record in about}) > 1:
        raise UserError("these memory files keep different averages; they cannot be compared")
