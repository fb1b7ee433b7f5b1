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

    evals: tuple[Path, ...] = ()
    """Instead of studies: Results of `nestling eval`, side by side on one page."""
    page: Path = Path("report.html")
    """File of that page."""

    def run(self) -> None:
        """One line a study: what was written, or that nothing has been run."""
        if self.evals:
            return self._evaluations()
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

    def _evaluations(self) -> None:
        from nestling.evals.show import named, origin, sections
        from nestling.report import write_page

        results = named(self.evals)
        parts = sections(results)
        print(write_page(self.page, "Evaluations", parts, provenance=origin(results)))
