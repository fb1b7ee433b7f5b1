"""The store of the Results of a study: one JSON file per cell."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from nestling.core.error import UserError
from nestling.core.result import Result
from nestling_lab.studies.study import Cell, Study


def same(one: Any, other: Any) -> bool:
    """Whether two settings are equal as JSON; settings added later count with their old value.

    >>> same({"steps": (1, 2.0)}, {"steps": [1, 2], "rates_by_role": False})
    True
    >>> same({"steps": 1}, {"steps": 1, "rates_by_role": True})
    False
    """
    return _plain(one) == _plain(other)


def _plain(value: Any) -> Any:
    # imported here, as workers compare no cells and need not import all of training
    from nestling.train.config import LATER

    def as_before(settings: dict[str, Any]) -> dict[str, Any]:
        return {k: v for k, v in settings.items() if k not in LATER or v != LATER[k]}

    return json.loads(json.dumps(value), object_hook=as_before)


class Store:
    """The folder ``root/<study>/``, with ``<cell>.json`` for every finished cell."""

    def __init__(self, root: str | Path, study: Study):
        self.folder = Path(root) / study.name
        self.study = study

    def path(self, cell: Cell) -> Path:
        """The file of a cell."""
        return self.folder / f"{cell.name}.json"

    def finished(self) -> dict[str, Result]:
        """The Results by cell name; those with other than the current settings are ignored.

        Later stages of cells are looked up once the earlier ones are finished.
        """
        done: dict[str, Result] = {}
        while True:
            found = self.matching(self.study.cells(done))
            if found.keys() == done.keys():
                return done
            done = found

    def matching(self, cells: Iterable[Cell]) -> dict[str, Result]:
        """The stored Results of the given cells that have the same settings."""
        found = {}
        for cell in cells:
            if self.path(cell).exists():
                result = Result.read(self.path(cell))
                if same(result.config, cell.config) and result.seed == cell.seed:
                    found[cell.name] = result
        return found

    def outdated(self) -> list[str]:
        """Files that belong to no cell of the study: of other settings, or left over."""
        done = self.finished()
        files = {path.stem for path in self.folder.glob("*.json")}
        return sorted(files - done.keys())

    def pending(self, done: dict[str, Result]) -> list[Cell]:
        """The cells known so far that have no Result."""
        return [cell for cell in self.study.cells(done) if cell.name not in done]

    def take_in(self, root: str | Path) -> list[str]:
        """Copy the finished cells of this study from another folder of results; return their names.

        Cells finished here are kept. Results with other settings are not copied. Raises UserError
        if the folder has no results of this study.
        """
        there = Store(root, self.study)
        if not there.folder.is_dir():
            raise UserError(
                f"{there.folder} contains no results of {self.study.name}; give another folder"
            )
        taken: list[str] = []
        while True:  # copied cells may make later cells known
            done = self.finished()
            found = there.matching(self.study.cells(done))
            fresh = {name: result for name, result in found.items() if name not in done}
            if not fresh:
                return taken
            for name, result in fresh.items():
                result.write(self.folder / f"{name}.json")
            taken += fresh

    def write(self, cell: Cell, result: Result) -> Path:
        """Write a Result, atomically."""
        return result.write(self.path(cell))
