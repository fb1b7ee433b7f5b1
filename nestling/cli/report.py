"""nestling report: compare results of `nestling eval` on one page."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Command:
    """Compare results of `nestling eval` side by side on one self-contained page."""

    evals: tuple[Path, ...]
    """Files written by `nestling eval --json`."""
    page: Path = Path("report.html")
    """File for the page."""

    def run(self) -> None:
        """Write the page and print where it is."""
        from nestling.evals.show import by_file_name, origin, sections
        from nestling.report import write_page

        results = by_file_name(self.evals)
        parts = sections(results)
        print(write_page(self.page, "Evaluations", parts, provenance=origin(results)))
