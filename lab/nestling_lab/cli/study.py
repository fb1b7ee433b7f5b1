"""nestling study: grids of measurements, one Result a cell."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from nestling.core.error import UserError

RESULTS = Path("results")


@dataclass(frozen=True, kw_only=True)
class List:
    """Name the studies and what each asks."""

    def run(self) -> None:
        """Print one line a study."""
        from nestling.report import Table
        from nestling_lab.studies import STUDIES

        rows = [(name, STUDIES.load(name).question) for name in STUDIES.names()]
        print(Table(columns=("study", "question"), rows=rows).text())


@dataclass(frozen=True, kw_only=True)
class Run:
    """Run the cells that have no result yet."""

    name: tyro.conf.Positional[str]
    """Name of the study."""
    out: Path = RESULTS
    """Folder of the results; a study has a folder of its own in it."""
    workers: int = 1
    """Processes side by side, each with one thread."""
    executor: str = "local"
    """What runs the cells: local (processes of this machine), submitit (jobs of SLURM), ray or
    dask."""
    option: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """NAME=VALUE for the executor: of submitit's AutoExecutor (slurm_partition=gpu), ray.init
    (address=auto; num_gpus of a cell) or dask's Client (address=HOST:8786); may be repeated."""
    cells: str = "*"
    """Shell pattern of the cells to run."""
    shard: str = "1/1"
    """Share of the cells, i/n with i from 1: one machine or job of an array each. What follows from
    the results of all is run by another call, once they lie in one folder (study merge)."""
    device: str = "cpu"
    """Device of torch: cpu or cuda."""
    quiet: bool = False
    """Show no progress."""

    def run(self) -> None:
        """Run, then print where the study stands."""
        from nestling.cli.train import settings
        from nestling_lab.studies import Shard, Store, load_study, run_study
        from nestling_lab.studies.executors import LOCAL, open_executor

        shard = Shard.parse(self.shard)
        store = Store(self.out, load_study(self.name))
        if self.executor != LOCAL and self.workers != 1:
            raise UserError("--workers is of --executor local; another has settings of its own")
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
    """Say what the finished cells show."""

    name: tyro.conf.Positional[str]
    """Name of the study."""
    out: Path = RESULTS
    """Folder of the results."""
    json: Path | None = None
    """File for the figures, as a Result."""
    page: Path | None = None
    """File for a self-contained page in HTML."""
    markdown: Path | None = None
    """File for the tables in Markdown."""
    latex: Path | None = None
    """File for the tables in LaTeX."""

    def run(self) -> None:
        """Print the tables and write what was asked for."""
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
    """Take in the cells that other machines have finished."""

    name: tyro.conf.Positional[str]
    """Name of the study."""
    sources: Annotated[tuple[Path, ...], tyro.conf.arg(name="from")]
    """Folders of results to take from; what is finished here stays."""
    out: Path = RESULTS
    """Folder of the results."""

    def run(self) -> None:
        """Copy, and say how many came from where."""
        from nestling_lab.studies import Store, load_study

        store = Store(self.out, load_study(self.name))
        for source in self.sources:
            print(f"{len(store.take_in(source))} cells from {source}")


@dataclass(frozen=True, kw_only=True)
class Report:
    """Write the page of a study, README.md, and its figures beside its Results."""

    names: tyro.conf.Positional[tuple[str, ...]] = ()
    """Names of studies; every study that has Results by default."""
    out: Path = RESULTS
    """Folder of the results."""

    def run(self) -> None:
        """Write what the finished cells say, and name the missing ones."""
        from nestling_lab.studies import STUDIES, Store, load_study
        from nestling_lab.studies.reports import write_report
        from nestling_lab.studies.status import status

        for name in self.names or STUDIES.names():
            store = Store(self.out, load_study(name))
            found = status(store)
            if not found.done and not self.names:
                continue
            files = write_report(found, store.folder)
            left = f" To do: {found.missing}." if found.pending else ""
            print(f"{files[0]}: {len(files) - 1} figures. {found.progress}{left}")


Command = (
    Annotated[List, tyro.conf.subcommand("list")]
    | Annotated[Run, tyro.conf.subcommand("run")]
    | Annotated[Status, tyro.conf.subcommand("status")]
    | Annotated[Merge, tyro.conf.subcommand("merge")]
    | Annotated[Report, tyro.conf.subcommand("report")]
)
