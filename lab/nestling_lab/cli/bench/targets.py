"""nestling bench targets: which of the speeds to be reached are reached."""

from dataclasses import dataclass
from pathlib import Path

SIGNS = {True: "green", False: "not reached", None: "-"}


@dataclass(frozen=True, kw_only=True)
class Targets:
    """Read the Results that are kept, and say what is reached."""

    results: Path = Path("benchmarks/results")
    """Folder of Results; of each line the newest counts."""
    json: Path | None = None
    """File for the lines, a Result."""

    def run(self) -> None:
        """Print a row a target, and write them where --json says."""
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
