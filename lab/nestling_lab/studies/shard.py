"""A share of a study's cells, so that machines that know nothing of each other can share it."""

import hashlib
import re
from collections.abc import Sequence
from typing import NamedTuple

from nestling.core.error import UserError
from nestling_lab.studies.study import Cell, Study


class Shard(NamedTuple):
    """One of ``count`` shares; together they are every cell, and no cell is in two of them."""

    index: int = 1  # from 1
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """Of "i/n", i from 1 to n.

        >>> Shard.parse("2/4")
        Shard(index=2, count=4)
        """
        found = re.fullmatch(r"(\d+)/(\d+)", text.strip())
        shard = cls(*map(int, found.groups())) if found else cls(0, 0)
        if not 1 <= shard.index <= shard.count:
            raise UserError(f"{text!r} is no shard; write i/n with i from 1 to n, such as 1/4")
        return shard

    def take(self, study: Study, cells: Sequence[Cell]) -> list[Cell]:
        """The cells of this share.

        The cells known from the start are dealt out in turn; those that follow from results are
        dealt by their names, whatever else is finished by then.
        """
        place = {cell.name: index for index, cell in enumerate(study.cells({}))}

        def owner(cell: Cell) -> int:
            digest = hashlib.sha256(cell.name.encode()).digest()
            return place.get(cell.name, int.from_bytes(digest[:8], "big")) % self.count

        return [cell for cell in cells if owner(cell) == self.index - 1]
