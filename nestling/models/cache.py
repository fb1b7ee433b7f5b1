"""The memory of a model as a value that can be copied, saved and loaded."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from jaxtyping import Int
from torch import Tensor
from transformers.cache_utils import Cache

from nestling.core.error import UserError
from nestling.core.memory import map_state
from nestling.core.result import write_whole
from nestling.core.shapes import is_of

FORMAT = "nestling-memory-1"


class MemoryCache(Cache):
    """The states of all blocks, and how much each row has read.

    A call of the model with ``past_key_values=cache`` updates the cache in place, as ``generate``
    expects; the states themselves are never modified, so ``fork`` is free.
    """

    def __init__(self, architecture: str = ""):
        super().__init__(layers=[])
        self.architecture = architecture  # must match that of a file to load it
        # one per block, then the head's if it is a level; None before the first call
        self.states: list[Any] | None = None
        self.columns = 0  # positions read, masked ones included
        self.tokens: Int[Tensor, "B"] | None = None  # valid tokens read by each row

    def advance(self, states: list[Any], length: int, valid: Int[Tensor, "B"]) -> None:
        """Set the states after ``length`` more positions, ``valid`` of them read in each row."""
        self.states = states
        self.columns += length
        self.tokens = valid if self.tokens is None else self.tokens + valid

    @property
    def batch_size(self) -> int:
        """The number of rows, or -1 before the first call."""
        return -1 if self.tokens is None else len(self.tokens)

    @property
    def is_compileable(self) -> bool:
        """False: states can grow and change shape."""
        return False

    @property
    def is_initialized(self) -> bool:
        """Whether something has been read."""
        return self.states is not None

    @property
    def is_croppable(self) -> bool:
        """False: writes cannot be undone."""
        return False

    def __len__(self) -> int:
        return len(self.states or [])

    def __repr__(self) -> str:
        return f"MemoryCache(blocks={len(self)}, rows={self.batch_size}, columns={self.columns})"

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Positions read so far, including the padding of the prompt."""
        return self.columns

    def get_max_length(self, layer_idx: int | None = None) -> int:
        """-1: no limit."""
        return -1

    def map(self, function) -> "MemoryCache":
        """A cache with ``function`` applied to every tensor."""
        other = MemoryCache(self.architecture)
        other.states = None if self.states is None else map_state(function, self.states)
        other.columns = self.columns
        other.tokens = None if self.tokens is None else function(self.tokens)
        return other

    def check(self, architecture: str, rows: int) -> None:
        """Raise UserError unless this is the memory of such a model for ``rows`` rows."""
        if self.states is not None and self.architecture != architecture:
            raise UserError(
                "this is the memory of another model: "
                f"{difference(self.architecture, architecture)}; start with model.new_cache()"
            )
        if self.batch_size not in (-1, rows):
            raise UserError(
                f"the memory holds {self.batch_size} rows and the batch {rows}: "
                "use cache.batch_repeat_interleave, or one cache per batch"
            )

    def fork(self) -> "MemoryCache":
        """An independent copy of the cache; no tensor is copied."""
        return self.map(lambda tensor: tensor)

    def detach(self) -> "MemoryCache":
        """The same memory, detached from the graph: truncates backpropagation."""
        return self.map(torch.Tensor.detach)

    def to(self, device: torch.device | str) -> "MemoryCache":
        """The same memory on another device."""
        return self.map(lambda tensor: tensor.to(device))

    def _replace_rows(self, function) -> None:
        mapped = self.map(function)
        self.states, self.tokens = mapped.states, mapped.tokens

    def reorder_cache(self, beam_idx: Int[Tensor, "N"]) -> None:
        """Make row i the former row ``beam_idx[i]``, in every tensor of the memory."""
        self._replace_rows(lambda tensor: tensor.index_select(0, beam_idx.to(tensor.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat each row ``repeats`` times, side by side."""
        self._replace_rows(lambda tensor: tensor.repeat_interleave(repeats, dim=0))

    def batch_select_indices(self, indices: Int[Tensor, "N"]) -> None:
        """Keep the rows ``indices``."""
        self.reorder_cache(indices)

    def reset(self) -> None:
        """Forget everything: the next call starts from the learned initial states."""
        self.states, self.tokens, self.columns = None, None, 0

    def crop(self, tokens_to_remove: int) -> None:
        """Refuse: writes cannot be undone."""
        raise UserError("a memory cannot be cropped; keep a cache.fork() and continue from it")

    def activate_past_recording(self) -> None:
        """Refuse: earlier states are not recorded."""
        self.crop(0)

    def save(self, path: str | Path) -> Path:
        """Save the memory as safetensors, atomically."""
        if self.states is None or self.tokens is None:
            raise UserError("this memory is empty; let the model read something before saving it")
        tensors = {"tokens": self.tokens.contiguous()}
        for name, tensor in named_tensors(self.states):
            # a contiguous copy: rows of one state may share storage
            tensors[f"states.{name}"] = tensor.detach().clone(memory_format=torch.contiguous_format)
        about = {
            "format": FORMAT,
            "architecture": self.architecture,
            "columns": str(self.columns),
        }
        return write_whole(path, safetensors.torch.save(tensors, about))

    @classmethod
    def load(cls, path: str | Path, model: Any) -> "MemoryCache":
        """Load a memory saved by ``model`` or by one of the same architecture.

        Raises UserError for a file that is missing, truncated, or of another architecture.
        """
        tensors, about = _read(Path(path))
        cache = model.new_cache()
        if about.get("format") != FORMAT:
            raise UserError(f"{path} is not a saved memory; write one with cache.save(file)")
        if about["architecture"] != cache.architecture:
            raise UserError(
                f"{path} is the memory of another architecture: "
                f"{difference(about['architecture'], cache.architecture)}"
            )
        tokens, columns = tensors.pop("tokens", None), about.get("columns", "")
        if (
            tokens is None
            or tokens.ndim != 1
            or is_of(tokens.dtype, "float")
            or not columns.isdigit()
        ):
            raise UserError(f"{path} does not say how much was read; save the memory again")
        cache.tokens, cache.columns = tokens, int(columns)
        cache.states = fill_state(model.init_states(len(tokens)), "states", tensors)
        cache = cache.to(model.device)
        model.check_states(cache.states, len(tokens))
        return cache


def named_tensors(state: Any, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Every tensor of a nested state, with its dotted name."""
    if isinstance(state, Tensor):
        yield prefix, state
    elif isinstance(state, tuple | list):
        fields = getattr(state, "_fields", range(len(state)))
        for field, item in zip(fields, state, strict=True):
            yield from named_tensors(item, f"{prefix}.{field}" if prefix else str(field))


def fill_state(template: Any, prefix: str, tensors: dict[str, Tensor]) -> Any:
    """A state with the structure of ``template``, filled from tensors by name."""
    if isinstance(template, Tensor):
        if prefix not in tensors:
            raise UserError(
                f"the saved memory lacks {prefix}: it is of another version; read the text again"
            )
        return tensors[prefix].to(template.dtype)
    if isinstance(template, tuple | list):
        fields = getattr(template, "_fields", range(len(template)))
        items = [
            fill_state(item, f"{prefix}.{field}", tensors)
            for field, item in zip(fields, template, strict=True)
        ]
        if isinstance(template, list):
            return items
        return type(template)(*items) if hasattr(template, "_fields") else tuple(items)
    return template


def together(caches: Sequence[MemoryCache]) -> MemoryCache:
    """One memory with the rows of all: caches of one model that have read equally many positions.

    Rows that have kept fewer positions than others are padded on the left with masked ones.
    """
    first = caches[0]
    states = [dict(named_tensors(cache.states)) for cache in caches]
    rows = {f"states.{name}": _rows([state[name] for state in states]) for name in states[0]}
    whole = first.fork()
    whole.states = fill_state(first.states, "states", rows)
    whole.tokens = torch.cat([cache.tokens for cache in caches if cache.tokens is not None])
    return whole


def _rows(parts: Sequence[Tensor]) -> Tensor:
    """The rows [B, S, ...] of all parts, each left-padded to the longest S."""
    longest = max((part.shape[1] for part in parts if part.ndim > 1), default=0)
    filled_up = []
    for part in parts:
        lacking = longest - part.shape[1] if part.ndim > 1 else 0
        if lacking:
            masked = 0 if part.is_floating_point() else -1
            shape = (len(part), lacking, *part.shape[2:])
            part = torch.cat((part.new_full(shape, masked), part), dim=1)
        filled_up.append(part)
    return torch.cat(filled_up)


def difference(saved: str, wanted: str) -> str:
    """The first difference between two architectures, in words."""
    old, new = json.loads(saved or "{}"), json.loads(wanted)
    keys = [*new, *(key for key in old if key not in new)]
    key = next((key for key in keys if old.get(key) != new.get(key)), "nothing")
    return f"{key} is {old.get(key)!r} there and {new.get(key)!r} in this model"


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            names = file.keys()
            # a copy is aligned to 64 bytes, like torch's own tensors: with another alignment the
            # same product may be summed in another order
            tensors = {name: file.get_tensor(name).clone() for name in names}
            return tensors, file.metadata() or {}
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except safetensors.SafetensorError as error:
        raise UserError(f"{path} is truncated or not a saved memory; save it again") from error
