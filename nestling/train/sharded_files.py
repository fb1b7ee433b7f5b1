"""Files of tensors written by many processes, each its shards (torch.distributed.checkpoint).

The files are safetensors that record the place of each shard in its tensor, so that any number of
processes can read them.
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
    """Write the tensors of all processes; return the names of the files written by this one.

    The processes are those of a group (None: all), and all must call this. A DTensor is written in
    shards; any other tensor is written by one of the processes that have it. Raises OSError in all
    if one of them cannot write.
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
    """Read every tensor of a folder, whole, without other processes."""
    about = checkpoint.HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
    found = {
        name: torch.empty(one.size, dtype=one.properties.dtype)
        for name, one in about.items()
        if isinstance(one, checkpoint.TensorStorageMetadata)
    }
    reader = checkpoint.HuggingFaceStorageReader(str(folder))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")  # on purpose
        checkpoint.load(dict(found), storage_reader=reader, no_dist=True)
    return found


def from_all(function: Callable[[], Any], group: Any = None) -> list[Any]:
    """The results of a function in all processes of a group; an OSError in one is raised in all."""
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
