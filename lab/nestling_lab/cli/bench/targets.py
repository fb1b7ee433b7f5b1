"""nestling bench targets: which performance targets are met?"""

from dataclasses import dataclass
from pathlib import Path

SIGNS = {True: "green", False: "not reached", None: "-"}


@dataclass(frozen=True, kw_only=True)
class Targets:
    """Compare committed Results with the performance targets."""

    results: Path = Path("benchmarks/results")
    """Folder of Results; the newest one counts for each target."""
    json: Path | None = None
    """Write the rows to this file, as a Result."""

    def run(self) -> None:
        """Print one row per target, and write them to --json."""
        from nestling.core.result import Result
        from nestling.report import Table
        from nestling_lab.bench.targets import read_all, standing

        found = standing(read_all(self.results))
        if self.json is not None:
            config = {"results": str(self.results)}
            Result(name="bench targets", config=config, metrics=found).write(self.json)
        rows = [
            (key, row["ratio"], row["must"], row["stretch"], SIGNS[row["green"]])
            for key, row in found.items()
        ]
        print(Table(columns=("target", "ratio", "must", "stretch", ""), rows=rows).text())
        for key, row in found.items():
            if row["reason"]:
                print(f"{key}: {row['reason']}")
