"""Checkpoints of a sharded model: every process writes its shards in the background."""

import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor, distributed

from nestling.train.checkpoint import (
    TOGETHER,
    digest,
    flatten,
    not_saved,
    settle,
    write_record,
)
from nestling.train.sharded_files import from_all, write_tensors


class Writer:
    """Writes one checkpoint at a time, from a copy on the CPU, in a thread of each process.

    All processes create one and call its methods together. The threads communicate in their own
    process group, separate from the training.
    """

    def __init__(self) -> None:
        self._group = distributed.new_group(backend="gloo")
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: Future[None] | None = None

    def begin(self, path: Path, parts: Mapping[str, Any], after: Callable[[], object]) -> None:
        """Copy each part (a tree), and write the copy to ``path`` with ``write_apart``.

        This first waits for an earlier write. ``after`` is called in the thread at the end.
        """
        self.wait()
        trees, tensors = apart(parts)
        # torch's DefaultStager copies storages, which tensors of a sharded model may lack
        copied = {name: tensor.to("cpu", copy=True) for name, tensor in tensors.items()}

        def write() -> None:
            write_apart(path, trees, copied, self._group)
            after()

        self._writing = self._thread.submit(write)

    @property
    def failed(self) -> bool:
        """Whether a write has failed; ``wait`` raises the error.

        The answer may differ between processes for a while.
        """
        writing = self._writing
        return writing is not None and writing.done() and writing.exception() is not None

    def wait(self) -> None:
        """Wait for the last checkpoint. Raises UserError in all processes if one cannot write."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()


def apart(parts: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Split parts into their records, and their tensors by part and name."""
    trees, tensors = {}, {}
    for name, tree in parts.items():
        trees[name], found = flatten(tree)
        tensors |= {f"{name}/{key}": tensor for key, tensor in found.items()}
    return trees, tensors


def write_apart(
    path: Path, trees: Mapping[str, Any], tensors: Mapping[str, Tensor], group: Any = None
) -> None:
    """``write_checkpoint`` for parts split by ``apart``: each process writes what it has.

    A tensor on several processes is written by one of them, a DTensor in shards; other values of a
    tree come from the first process that has them. All processes of a group (None: all) must call
    this, and all raise UserError if one cannot write.
    """
    draft, first = path.with_name(f".{path.name}.together"), distributed.get_rank() == 0
    try:
        from_all(lambda: first and shutil.rmtree(draft, ignore_errors=True), group)
        names = write_tensors(draft, tensors, group)
        given = from_all(lambda: (trees, {name: digest(draft / name) for name in names}), group)
        files = {name: found for _, digests in given for name, found in digests.items()}
        merged = _merged([tree for tree, _ in given])
        record = {"format": TOGETHER, "parts": merged, "files": files}
        from_all(lambda: first and (write_record(draft, record), settle(draft, path)), group)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(draft, ignore_errors=True)
        raise not_saved(path, error) from error


def _merged(trees: list[Any]) -> Any:
    """The first tree, completed with what only later ones have."""
    if not isinstance(trees[0], dict):
        return trees[0]
    trees = [tree for tree in trees if isinstance(tree, dict)]
    names = dict.fromkeys(name for tree in trees for name in tree)
    return {name: _merged([tree[name] for tree in trees if name in tree]) for name in names}
