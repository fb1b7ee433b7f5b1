"""Tensors that many processes write together, each its part (torch.distributed.checkpoint).

The files are safetensors that say where in a tensor a part lies, so that any number of processes
can read them.
"""

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed
from torch.distributed import checkpoint
from torch.distributed.checkpoint.api import CheckpointException


def write_tensors(folder: Path, tensors: Mapping[str, Tensor], group: Any = None) -> list[str]:
    """Write what each process has, and give the names of the files that this one has written.

    The processes are those of a group; None: all.
    Of a DTensor every process writes its part; any other is written by one of those that give it.
    All processes call it together. Raises OSError in all where one of them cannot write.
    """
    writer = checkpoint.HuggingFaceStorageWriter(str(folder), save_distributed=True)
    given = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    try:
        checkpoint.save(given, storage_writer=writer, process_group=group)
    except CheckpointException as error:
        for failure, _ in error.failures.values():
            if isinstance(failure, OSError):
                raise failure from error
        raise
    own = f"shard-{distributed.get_rank() + 1:05d}-*"
    return sorted(file.name for file in folder.glob(own))


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """Every tensor of a folder, whole; this process reads by itself."""
    about = checkpoint.HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
    found = {
        name: torch.empty(one.size, dtype=one.properties.dtype)
        for name, one in about.items()
        if isinstance(one, checkpoint.TensorStorageMetadata)
    }
    reader = checkpoint.HuggingFaceStorageReader(str(folder))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")  # as it is meant to be
        checkpoint.load(dict(found), storage_reader=reader, no_dist=True)
    return found


def from_all(function: Callable[[], Any], group: Any = None) -> list[Any]:
    """What the function gives in every process of a group; an OSError of one is raised in all."""
    value, failure = None, None
    try:
        value = function()
    except OSError as error:
        failure = error
    found: list[Any] = [None] * distributed.get_world_size(group)
    distributed.all_gather_object(found, (value, failure), group)
    for _, error in found:
        if error is not None:
            raise error
    return [value for value, _ in found]
