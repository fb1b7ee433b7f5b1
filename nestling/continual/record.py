"""Convert the state of a learner to the record and tensors of a memory file, and back."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

import nestling
from nestling.continual.file import MemoryFile, read_memory, write_memory
from nestling.continual.state import Document, State, Stream
from nestling.continual.storage import EXACT, pack, parse_storage, unpack
from nestling.continual.study.record import (
    Open,
    Studied,
    Waiting,
    change_tensors,
    open_of,
    open_record,
    studied_of,
    studied_record,
)
from nestling.core.error import UserError
from nestling.models.pretrained import LevelSpec
from nestling.rules.level import LevelState

if TYPE_CHECKING:
    from nestling.continual.learner import ContinualLearner


OPEN = "open."  # prefix of the tensors of an unfinished study


def moved_name(level: int, parameter: str) -> str:
    """The name in a file of how far a level has moved one parameter."""
    return f"level.{level}.moved.{parameter}"


def average_name(span: int, level: int, parameter: str) -> str:
    """The name in a file of how far an average over ``span`` tokens has moved one parameter."""
    return f"level.{level}.average.{span}.{parameter}"


def tensor_names(about: Mapping[str, Any]) -> list[Callable[[int, str], str]]:
    """The naming functions for what was learned, each of a level and a parameter.

    They name what levels have moved, the starting points of nested ones, and the averages.
    """
    averages = about["options"].get("averages") or ()
    return [moved_name, begin_name, *(partial(average_name, span) for span in averages)]


# names of a rule's buffers in files of earlier versions
FORMER_NAMES = {"slow0": "slow m", "sum0": "gathered", "read0": "direction"}
FORMER = tuple(FORMER_NAMES.values())


def begin_name(level: int, parameter: str) -> str:
    """The name in a file of a nested level's starting point in one parameter."""
    return f"level.{level}.begin.{parameter}"


def save_state(learner: "ContinualLearner", path: Path, storage: str) -> Path:
    """Write the memory file of a learner."""
    form = parse_storage(storage)
    tensors: dict[str, Tensor] = {}
    exact = form.form == EXACT
    for index, names in enumerate(learner.parameters):
        level = learner.state.levels[index]
        for name, value in _kept(index, names, level, learner.writers[index].written_by.buffers):
            if name.startswith((moved_name(index, ""), begin_name(index, ""))):
                tensors.update(pack(name, value[0], form))
            elif exact:
                tensors[name] = value[0]
        for span, average in zip(learner.spans, learner.state.averages, strict=True):
            for name, value in zip(names, average[index], strict=True):
                if bool(value.any()):
                    tensors.update(pack(average_name(span, index, name), value, form))
    for number, one in enumerate(learner.state.studied):
        tensors.update(change_tensors(number, one))
    if exact and learner.state.open is not None:
        opened = learner.state.open.tensors.items()
        tensors.update({f"{OPEN}{name}": value for name, value in opened})
    stream = learner.state.stream
    if exact:
        context = learner.reader.tensors(stream.context)
        tensors.update({f"context.{name}": value for name, value in context.items()})
    return write_memory(path, MemoryFile(_about(learner, storage), tensors))


def _kept(
    index: int, names: tuple[str, ...], level: LevelState, buffers: tuple[str, ...]
) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a level that can be non-zero by now, [1, *S] each."""
    for i, name in enumerate(names):
        if bool(level.moved[i].any()):
            yield moved_name(index, name), level.moved[i]
        if level.begin and bool(level.begin[i].any()):
            # a copy: right after a reset both are the same tensor, which a file cannot hold twice
            yield begin_name(index, name), level.begin[i].clone()
        if bool(level.writes > 0):
            for buffer, value in zip(buffers, level.buffers[i], strict=True):
                yield f"level.{index}.buffer.{buffer}.{name}", value
        if bool(level.terms > 0):
            yield f"level.{index}.total.{name}", level.total[i]
            if level.gram[i].numel():
                yield f"level.{index}.gram.{name}", level.gram[i]


def _about(learner: "ContinualLearner", storage: str) -> dict[str, Any]:
    state, exact = learner.state, storage == EXACT
    stream = state.stream
    return {
        "base": learner.digest,
        "architecture": type(learner.reader.model).__name__,
        "variant": learner.base.variant,
        "storage": storage,
        "versions": {
            "nestling": nestling.__version__,
            "torch": metadata.version("torch"),
            "transformers": metadata.version("transformers"),
        },
        "stacking": [level.record() for level in learner.base.levels],
        "options": {
            "segment": learner.sizes.segment,
            "window": learner.sizes.window,
            "surprise": learner.options.surprise,
            "averages": list(learner.spans) or None,
        },
        "levels": [
            {
                **spec.record(),
                "parameters": list(names),
                "terms": float(level.terms) if exact else 0.0,
                "seen": int(level.seen) if exact else 0,
                "writes": int(level.writes),
            }
            for spec, names, level in zip(
                learner.levels, learner.parameters, state.levels, strict=True
            )
        ],
        "stream": {
            "tokens": stream.tokens,
            "open_ids": list(stream.open_ids) if exact else [],
            "open_starts": list(stream.open_starts) if exact else [],
            "last": stream.last if exact else None,
            "window": list(stream.window) if exact else [],
        },
        "documents": [list(document) for document in state.documents],
        **study_record(state, exact),
    }


def restore_state(learner: "ContinualLearner", path: Path) -> State:
    """Read the state in a memory file; one that does not fit the learner raises UserError."""
    memory = read_memory(path)
    about, tensors = memory.about, memory.tensors
    if about["base"] != learner.digest:
        raise UserError(
            f"{path} belongs to another base model ({about['architecture']}, "
            f"{about['base'][:12]}; this one is {learner.digest[:12]}): "
            "use the model it was learned with, or start another memory"
        )
    _check(learner, about, path)
    exact = about["storage"] == EXACT
    levels = tuple(
        _level(learner, index, record, tensors, exact)
        for index, record in enumerate(about["levels"])
    )
    averages = tuple(
        tuple(_average(learner, span, index, tensors) for index in range(len(levels)))
        for span in learner.spans
    )
    context = {
        name.removeprefix("context."): value.to(learner.device)
        for name, value in tensors.items()
        if name.startswith("context.")
    }
    stream = about["stream"]
    return State(
        levels,
        Stream(
            tokens=stream["tokens"],
            open_ids=tuple(stream["open_ids"]),
            open_starts=tuple(stream["open_starts"]),
            last=stream["last"],
            window=tuple(stream["window"]),
            context=learner.reader.restore(context),
        ),
        tuple(Document(*document) for document in about["documents"]),
        averages,
        *study_of(about, tensors, learner.device),
    )


def study_record(state: State, exact: bool) -> dict[str, Any]:
    """The part of a record about study; empty if there was none."""
    found: dict[str, Any] = {}
    if state.waiting:
        found["waiting"] = [list(one if one.about else one[:3]) for one in state.waiting]
    if state.studied:
        found["studied"] = [studied_record(one) for one in state.studied]
    if state.own:
        found["own"] = [list(ids) for ids in state.own]
    if exact and state.open is not None:
        found["open"] = open_record(state.open)
    return found


def study_of(
    about: Mapping[str, Any], tensors: Mapping[str, Tensor], device: torch.device
) -> tuple[tuple[Waiting, ...], Open | None, tuple[Studied, ...], tuple[tuple[int, ...], ...]]:
    """The waiting, open and studied documents, from a record and tensors."""
    placed = {n: v.to(device) for n, v in tensors.items() if n.startswith(("study.", OPEN))}
    opened = {n.removeprefix(OPEN): v for n, v in placed.items() if n.startswith(OPEN)}
    return (
        tuple(Waiting(*one) for one in about.get("waiting", ())),
        open_of(about["open"], opened) if "open" in about else None,
        tuple(studied_of(n, one, placed) for n, one in enumerate(about.get("studied", ()))),
        tuple(tuple(ids) for ids in about.get("own", ())),
    )


def _average(
    learner: "ContinualLearner", span: int, index: int, tensors: Mapping[str, Tensor]
) -> tuple[Tensor, ...]:
    """How far an average has moved in one level."""
    found = []
    for name, start in zip(learner.parameters[index], learner.start[index], strict=True):
        value = unpack(average_name(span, index, name), tensors)
        wide = torch.zeros_like(start, dtype=torch.promote_types(start.dtype, torch.float32))
        found.append(wide if value is None else value.to(wide))
    return tuple(found)


def _check(learner: "ContinualLearner", about: dict[str, Any], path: Path) -> None:
    """Raise UserError unless the file has the levels and options of the learner."""
    there = [LevelSpec.of(level) for level in about["levels"]]
    if list(map(_kind, there)) != list(map(_kind, learner.levels)):
        said = ", ".join(level.text for level in there)
        raise UserError(f"{path} was learned with other levels ({said}); give those, or none")
    for name in ("segment", "window") if there else ("window",):
        old, new = about["options"][name], getattr(learner.sizes, name)
        if old != new:
            raise UserError(f"{path} was learned with {name} {old}, not {new}; give the former")
    if (old := about["options"].get("averages") or []) != list(learner.spans):
        raise UserError(f"{path} keeps averages over {old} tokens; give those, or none")


def _kind(level: LevelSpec) -> tuple[Any, ...]:
    return level.period, level.rule, level.share


def _level(
    learner: "ContinualLearner",
    index: int,
    record: dict[str, Any],
    tensors: Mapping[str, Tensor],
    exact: bool,
) -> LevelState:
    fresh = learner.fresh_level(index)
    names = learner.parameters[index]

    kept = learner.writers[index].written_by.buffers
    if any(f"level.{index}.buffer.{buffer}." in name for buffer in FORMER for name in tensors):
        kept = tuple(FORMER_NAMES.get(buffer, buffer) for buffer in kept)

    def found(name: str, old: Tensor) -> Tensor:
        value = unpack(name, tensors)
        return old if value is None else value[None].to(old)

    buffers = tuple(
        tuple(
            found(f"level.{index}.buffer.{buffer}.{name}", old)
            for buffer, old in zip(kept, group, strict=True)
        )
        for name, group in zip(names, fresh.buffers, strict=True)
    )
    pairs = list(zip(names, fresh.moved, fresh.total, strict=True))
    return fresh._replace(
        moved=tuple(found(moved_name(index, name), moved) for name, moved, _ in pairs),
        total=tuple(found(f"level.{index}.total.{name}", total) for name, _, total in pairs),
        gram=tuple(
            found(f"level.{index}.gram.{name}", gram)
            for name, gram in zip(names, fresh.gram, strict=True)
        ),
        begin=tuple(
            found(begin_name(index, name), begin)
            for name, begin in zip(names, fresh.begin, strict=False)
        ),
        buffers=buffers,
        terms=torch.full_like(fresh.terms, record["terms"]),
        seen=torch.full_like(fresh.seen, record["seen"]),
        # bias correction of the moments counts writes since they were zero
        writes=torch.full_like(fresh.writes, record["writes"] if exact else 0),
    )
