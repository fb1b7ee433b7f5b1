"""Where the Results of a study lie: one JSON file a cell."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from nestling.core.error import UserError
from nestling.core.result import Result
from nestling_lab.studies.study import Cell, Study


def same(one: Any, other: Any) -> bool:
    """Equal as JSON: a tuple is a list, 1 is 1.0, and a setting that came later is as it was.

    >>> same({"steps": (1, 2.0)}, {"steps": [1, 2], "rates_by_role": False})
    True
    >>> same({"steps": 1}, {"steps": 1, "rates_by_role": True})
    False
    """
    return _plain(one) == _plain(other)


def _plain(value: Any) -> Any:
    # here: a worker runs cells and compares none, and need not import all that trains
    from nestling.train.config import LATER

    def as_before(settings: dict[str, Any]) -> dict[str, Any]:
        return {k: v for k, v in settings.items() if k not in LATER or v != LATER[k]}

    return json.loads(json.dumps(value), object_hook=as_before)


class Store:
    """The folder ``root/<study>/`` with ``<cell>.json`` for every finished cell."""

    def __init__(self, root: str | Path, study: Study):
        self.folder = Path(root) / study.name
        self.study = study

    def path(self, cell: Cell) -> Path:
        """The file of a cell."""
        return self.folder / f"{cell.name}.json"

    def finished(self) -> dict[str, Result]:
        """Results by cell name; one of other settings than the study's present ones is no Result.

        A later stage of cells is looked up as soon as the earlier ones are there.
        """
        done: dict[str, Result] = {}
        while True:
            found = self.matching(self.study.cells(done))
            if found.keys() == done.keys():
                return done
            done = found

    def matching(self, cells: Iterable[Cell]) -> dict[str, Result]:
        """Results here of the given cells, as far as their settings are the same."""
        found = {}
        for cell in cells:
            if self.path(cell).exists():
                result = Result.read(self.path(cell))
                if same(result.config, cell.config) and result.seed == cell.seed:
                    found[cell.name] = result
        return found

    def outdated(self) -> list[str]:
        """Files that no cell of the study accounts for: of other settings, or left over."""
        done = self.finished()
        files = {path.stem for path in self.folder.glob("*.json")}
        return sorted(files - done.keys())

    def pending(self, done: dict[str, Result]) -> list[Cell]:
        """The cells known by now that have no Result."""
        return [cell for cell in self.study.cells(done) if cell.name not in done]

    def take_in(self, root: str | Path) -> list[str]:
        """Copy the finished cells of this study from another folder of results; their names.

        What is finished here stays. A Result of other settings is left where it is.
        """
        there = Store(root, self.study)
        if not there.folder.is_dir():
            raise UserError(f"{there.folder} holds no results of {self.study.name}; name another")
        taken: list[str] = []
        while True:  # what is taken in may make later cells known
            done = self.finished()
            found = there.matching(self.study.cells(done))
            fresh = {name: result for name, result in found.items() if name not in done}
            if not fresh:
                return taken
            for name, result in fresh.items():
                result.write(self.folder / f"{name}.json")
            taken += fresh

    def write(self, cell: Cell, result: Result) -> Path:
        """Keep a Result; the file appears whole or not at all."""
        return result.write(self.path(cell))
