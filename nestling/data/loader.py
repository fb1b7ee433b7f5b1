"""An endless loader of shuffled documents whose position can be saved and restored."""

from collections.abc import Iterator
from typing import Any

from nestling.core.error import UserError
from nestling.data.order import Order
from nestling.data.pack import Batch, Packer
from nestling.data.tokens import Documents


class Loader:
    """An endless iterator over training batches.

    Every epoch visits all documents once, in an order given by ``seed`` and the epoch number; the
    global generators are not used. Every row is a stream of its own (see ``Packer``), so a model
    carries the state of row i from one batch to row i of the next.
    """

    def __init__(
        self,
        documents: Documents,
        *,
        batch_size: int,
        sequence_length: int,
        seed: int = 0,
        align: int = 1,
        rank: int = 0,
        world: int = 1,
    ):
        """Lengths and ``align`` are in tokens; this is loader ``rank`` of ``world``.

        Raises UserError if ``sequence_length`` is not a multiple of ``align``, or if there are
        fewer documents than loaders.
        """
        if not 0 <= rank < world:
            raise UserError(f"rank is {rank}; with world {world}, give 0 to {world - 1}")
        if len(documents) < world:
            raise UserError(
                f"{len(documents)} documents are too few for {world} loaders; give more text"
            )
        self.packer = Packer(
            documents,
            batch_size=batch_size,
            sequence_length=sequence_length,
            align=align,
            following=self._following,
        )
        self.seed, self.rank, self.world = seed, rank, world
        self.batches = 0  # returned so far
        self._enter(0)

    def _enter(self, epoch: int, cursor: int = 0) -> None:
        self._order = Order(len(self.packer.documents), seed=self.seed, epoch=epoch)
        self.epoch, self.cursor = epoch, cursor

    def _following(self) -> int:
        if self.rank + self.cursor * self.world >= len(self._order):
            self._enter(self.epoch + 1)
        self.cursor += 1
        return self._order[self.rank + (self.cursor - 1) * self.world]

    def read_only(self, rows: slice) -> None:
        """Read tokens for these rows only; other processes read the other rows.

        The position stays the same in all processes, see ``Packer.read``.
        """
        self.packer.read = range(*rows.indices(self.packer.shape[0]))

    def __iter__(self) -> Iterator[Batch]:
        """The loader itself; iteration continues at the current position."""
        return self

    def __next__(self) -> Batch:
        """The next batch; never raises StopIteration."""
        self.batches += 1
        return self.packer.batch()

    def _identity(self) -> dict[str, Any]:
        documents = self.packer.documents
        return {
            "seed": self.seed,
            "rank": self.rank,
            "world": self.world,
            "batch_size": self.packer.shape[0],
            "sequence_length": self.packer.shape[1],
            "align": self.packer.align,
            "documents": len(documents),
            "tokens": len(documents.ids),
        }

    def state_dict(self) -> dict[str, Any]:
        """The exact position, as numbers and lists that JSON can hold."""
        return {
            "identity": self._identity(),
            "epoch": self.epoch,
            "cursor": self.cursor,
            "batches": self.batches,
            "rows": [row and list(row) for row in self.packer.rows],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a saved position.

        Raises UserError if the loader that saved it had another text, seed or shape.
        """
        for key, value in self._identity().items():
            saved = state.get("identity", {}).get(key)
            if saved != value:
                raise UserError(
                    f"cannot resume: the checkpoint was written with {key} {saved}, this run has "
                    f"{value}; use the same corpus and options"
                )
        self._enter(state["epoch"], state["cursor"])
        self.batches = state["batches"]
        self.packer.rows = [row and (row[0], row[1]) for row in state["rows"]]


def evaluation_batches(
    documents: Documents, *, batch_size: int, sequence_length: int, align: int = 1
) -> Iterator[Batch]:
    """Batches in which every token of every document is a target exactly once.

    Long documents continue in the same row of the next batch, so carry the model's state over.
    The longest documents come first, so that the rows end at about the same time; a row without
    a document is padding. The number of labels is ``documents.num_targets``.
    """
    lengths = documents.lengths()
    queue = iter(sorted(range(len(documents)), key=lambda index: (-lengths[index], index)))
    packer = Packer(
        documents,
        batch_size=batch_size,
        sequence_length=sequence_length,
        align=align,
        following=lambda: next(queue, None),
    )
    batch = packer.batch()
    while batch.mask.any():
        yield batch
        batch = packer.batch()
