"""nestling bench compare: two Results side by side."""

from dataclasses import dataclass
from pathlib import Path

import tyro


@dataclass(frozen=True, kw_only=True)
class Compare:
    """Compare the figures of two Results of one benchmark."""

    first: tyro.conf.Positional[Path]
    """A Result."""
    second: tyro.conf.Positional[Path]
    """Another Result of the same benchmark."""
    only: str = "*"
    """Shell pattern of the names to print, such as '*tokens_per_second'."""

    def run(self) -> None:
        """Print the differences in how they were measured, then one row per figure."""
        from nestling.core.result import Result
        from nestling.report import Table
        from nestling_lab.bench.compare import compare, differences

        first, second = Result.read(self.first), Result.read(self.second)
        rows = compare(first, second, self.only)
        for line in differences(first, second):
            print(line)
        table = Table(
            columns=("figure", "first", "second", "second / first"),
            rows=[(name, a, b, b / a if a else None) for name, a, b in rows],
        )
        print(table.text())
