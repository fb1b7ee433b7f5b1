"""Shares of the cells of a study, so that independent machines can work on it."""

import hashlib
import re
from collections.abc import Sequence
from typing import NamedTuple

from nestling.core.error import UserError
from nestling_lab.studies.study import Cell, Study


class Shard(NamedTuple):
    """One of ``count`` disjoint shares that together cover all cells."""

    index: int = 1  # from 1
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """Parse "i/n", with i from 1 to n. Raises UserError for anything else.

        >>> Shard.parse("2/4")
        Shard(index=2, count=4)
        """
        found = re.fullmatch(r"(\d+)/(\d+)", text.strip())
        shard = cls(*map(int, found.groups())) if found else cls(0, 0)
        if not 1 <= shard.index <= shard.count:
            raise UserError(f"{text!r} is not a shard; write i/n with i from 1 to n, such as 1/4")
        return shard

    def take(self, study: Study, cells: Sequence[Cell]) -> list[Cell]:
        """The cells of this share.

        Cells known from the start are dealt out in turn; those that depend on results are assigned
        by a hash of their names, independent of what else is finished.
        """
        place = {cell.name: index for index, cell in enumerate(study.cells({}))}

        def owner(cell: Cell) -> int:
            digest = hashlib.sha256(cell.name.encode()).digest()
            return place.get(cell.name, int.from_bytes(digest[:8], "big")) % self.count

        return [cell for cell in cells if owner(cell) == self.index - 1]
