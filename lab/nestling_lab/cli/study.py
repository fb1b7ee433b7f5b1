"""nestling study: grids of measurements, with one Result per cell."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from nestling.core.error import UserError

RESULTS = Path("results")


@dataclass(frozen=True, kw_only=True)
class List:
    """List the studies with their questions."""

    def run(self) -> None:
        """Print one line per study."""
        from nestling.report import Table
        from nestling_lab.studies import STUDIES

        rows = [(name, STUDIES.load(name).question) for name in STUDIES.names()]
        print(Table(columns=("study", "question"), rows=rows).text())


@dataclass(frozen=True, kw_only=True)
class Run:
    """Run the cells of a study that have no Result yet."""

    name: tyro.conf.Positional[str]
    """Name of the study."""
    out: Path = RESULTS
    """Folder of the results, with one subfolder per study."""
    workers: int = 1
    """Number of parallel processes, each with one thread."""
    executor: str = "local"
    """Where to run the cells: local (processes on this machine), submitit (SLURM jobs), ray or
    dask."""
    option: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Option NAME=VALUE of the executor: of submitit's AutoExecutor (slurm_partition=gpu), ray.init
    (address=auto; num_gpus is per cell) or dask's Client (address=HOST:8786); may be repeated."""
    cells: str = "*"
    """Shell pattern of the cells to run."""
    shard: str = "1/1"
    """Share of the cells, i/n with i from 1, for one machine or one job of an array. Cells that
    depend on the results of all others are run by a later call, after study merge."""
    device: str = "cpu"
    """Torch device: cpu or cuda."""
    quiet: bool = False
    """Show no progress."""

    def run(self) -> None:
        """Run the cells, then print the status of the study."""
        from nestling.cli.train import settings
        from nestling_lab.studies import Shard, Store, load_study, run_study
        from nestling_lab.studies.executors import LOCAL, open_executor

        shard = Shard.parse(self.shard)
        store = Store(self.out, load_study(self.name))
        if self.executor != LOCAL and self.workers != 1:
            raise UserError("--workers works with --executor local only; use --option for others")
        with open_executor(self.executor, settings(self.option)) as executor:
            run_study(
                store,
                workers=self.workers,
                cells=self.cells,
                shard=shard,
                device=self.device,
                quiet=self.quiet,
                executor=executor,
            )
        Status(name=self.name, out=self.out).run()


@dataclass(frozen=True, kw_only=True)
class Status:
    """Show what the finished cells say."""

    name: tyro.conf.Positional[str]
    """Name of the study."""
    out: Path = RESULTS
    """Folder of the results."""
    json: Path | None = None
    """Write the figures to this file, as a Result."""
    page: Path | None = None
    """Write a self-contained HTML page to this file."""
    markdown: Path | None = None
    """Write the tables to this file, in Markdown."""
    latex: Path | None = None
    """Write the tables to this file, in LaTeX."""

    def run(self) -> None:
        """Print the tables and write the requested files."""
        from nestling_lab.studies import Store, load_study
        from nestling_lab.studies.status import status

        found = status(Store(self.out, load_study(self.name)))
        print(found.text())
        if self.json is not None:
            found.result().write(self.json)
        if self.page is not None:
            found.write_page(self.page)
        if self.markdown is not None:
            found.write_markdown(self.markdown)
        if self.latex is not None:
            found.write_latex(self.latex)


@dataclass(frozen=True, kw_only=True)
class Merge:
    """Copy cells finished on other machines."""

    name: tyro.conf.Positional[str]
    """Name of the study."""
    sources: Annotated[tuple[Path, ...], tyro.conf.arg(name="from")]
    """Folders of results to copy from; cells finished here are kept."""
    out: Path = RESULTS
    """Folder of the results."""

    def run(self) -> None:
        """Copy the cells, and print how many came from each folder."""
        from nestling_lab.studies import Store, load_study

        store = Store(self.out, load_study(self.name))
        for source in self.sources:
            print(f"{len(store.take_in(source))} cells from {source}")


@dataclass(frozen=True, kw_only=True)
class Report:
    """Write the page of a study, README.md, with its figures, and the list of all pages."""

    names: tyro.conf.Positional[tuple[str, ...]] = ()
    """Names of studies; default: every study with Results."""
    out: Path = RESULTS
    """Folder of the results."""

    def run(self) -> None:
        """Write the pages, and print which cells are missing."""
        from nestling_lab.studies import STUDIES, Store, load_study
        from nestling_lab.studies.reports import write_index, write_report
        from nestling_lab.studies.status import status

        for name in self.names or STUDIES.names():
            store = Store(self.out, load_study(name))
            found = status(store)
            if not found.done and not self.names:
                continue
            files = write_report(found, store.folder)
            left = f" To do: {found.missing}." if found.pending else ""
            print(f"{files[0]}: {len(files) - 1} figures. {found.progress}{left}")
        if self.out.exists():
            write_index(self.out, STUDIES.names())


Command = (
    Annotated[List, tyro.conf.subcommand("list")]
    | Annotated[Run, tyro.conf.subcommand("run")]
    | Annotated[Status, tyro.conf.subcommand("status")]
    | Annotated[Merge, tyro.conf.subcommand("merge")]
    | Annotated[Report, tyro.conf.subcommand("report")]
)
