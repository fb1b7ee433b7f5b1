"""Endless batches of shuffled documents, with a position that can be saved and restored."""

from collections.abc import Iterator
from typing import Any

from nestling.core.error import UserError
from nestling.data.order import Order
from nestling.data.pack import Batch, Packer
from nestling.data.tokens import Documents


class Loader:
    """Batches for training, without end.

    Every epoch runs through all documents once, in an order that ``seed`` and the epoch decide;
    the global generators are not touched. Every row is a stream of its own (see ``Packer``): the
    state a model carries from one batch to the next belongs to the same row.
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
        """Lengths and ``align`` are in tokens; of ``world`` loaders this one is number ``rank``.

        Raises UserError where ``sequence_length`` is no multiple of ``align``, or there are fewer
        documents than loaders.
        """
        if not 0 <= rank < world:
            raise UserError(f"rank {rank} must be from 0 to {world - 1}, one less than world")
        if len(documents) < world:
            raise UserError(
                f"{len(documents)} documents cannot be shared by {world} loaders; give more text"
            )
        self.packer = Packer(
            documents,
            batch_size=batch_size,
            sequence_length=sequence_length,
            align=align,
            following=self._following,
        )
        self.seed, self.rank, self.world = seed, rank, world
        self.batches = 0  # given so far
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
        """Read the tokens of these rows of a batch; another process reads those of the others.

        Where the loader stands is the same for all of them, as ``Packer.read`` says.
        """
        self.packer.read = range(*rows.indices(self.packer.shape[0]))

    def __iter__(self) -> Iterator[Batch]:
        """The loader itself: it goes on from where it stands."""
        return self

    def __next__(self) -> Batch:
        """The next batch; there always is one."""
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
        """The exact position, as plain numbers and lists (JSON can hold it)."""
        return {
            "identity": self._identity(),
            "epoch": self.epoch,
            "cursor": self.cursor,
            "batches": self.batches,
            "rows": [row and list(row) for row in self.packer.rows],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a saved position; raises UserError if it was saved by a loader of other text,
        seed or shape."""
        for key, value in self._identity().items():
            saved = state.get("identity", {}).get(key)
            if saved != value:
                raise UserError(
                    f"cannot resume: the checkpoint was made with {key} {saved}, not {value}; "
                    f"use the same corpus and options"
                )
        self._enter(state["epoch"], state["cursor"])
        self.batches = state["batches"]
        self.packer.rows = [row and (row[0], row[1]) for row in state["rows"]]


def evaluation_batches(
    documents: Documents, *, batch_size: int, sequence_length: int, align: int = 1
) -> Iterator[Batch]:
    """Batches in which every token of every document is a target exactly once.

    Long documents go on in the same row of the next batch, so the model's state must be carried.
    The longest documents come first, so that the rows end at about the same time; a row for
    which no document is left is fill. The labels sum to ``documents.num_targets``.
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
