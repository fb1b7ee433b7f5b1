"""nestling report: the reports of all studies, from what is committed."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Command:
    """Write the report of every study that has results: pages, Markdown, figures, LaTeX."""

    out: Path = Path("results")
    """Folder of the results."""
    to: Path = Path("docs/results")
    """Folder for the files of the reports."""

    def run(self) -> None:
        """One line a study: what was written, or that nothing has been run."""
        from nestling.studies import STUDIES, Store, load_study
        from nestling.studies.reports import write_report
        from nestling.studies.status import status

        for name in STUDIES.names():
            found = status(Store(self.out, load_study(name)))
            if not found.done:
                print(f"{name}: no results in {self.out / name}")
                continue
            files = write_report(found, self.to)
            print(f"{name}: {len(files)} files in {self.to}. {found.progress}")
