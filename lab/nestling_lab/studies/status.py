"""The status of a study, for a terminal, for programs, and as a page."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nestling.core.result import Result, write_whole
from nestling.report import Section, write_page
from nestling_lab.studies.store import Store
from nestling_lab.studies.study import Finding, Study

ASKED = "Question: "
NAMED = 10  # pending cells to list by name


@dataclass(frozen=True, kw_only=True)
class Status:
    """The findings of the finished cells of a study, and the pending cells."""

    study: Study
    done: Mapping[str, Result]
    pending: list[str]  # cells known so far without a Result
    outdated: list[str]  # files with settings other than the current ones
    finding: Finding

    @property
    def progress(self) -> str:
        """One sentence on how far the study has come."""
        parts = [f"{len(self.done)} cells finished, {len(self.pending)} to do"]
        if self.outdated:
            parts.append(f"{len(self.outdated)} files of other settings left out")
        return "; ".join(parts) + "."

    @property
    def question(self) -> str:
        """The question of the study as a sentence."""
        asked = self.study.question
        return f"{asked[0].upper()}{asked[1:]}?"

    @property
    def sections(self) -> list[Section]:
        """What shows the answer, if anything does, and the sections of the findings."""
        shown = self.finding.shown
        return [*([shown] if shown.tables else []), *self.finding.sections]

    def origin(self) -> dict[str, Any]:
        """Provenance of all cells: each value, with the number of cells that have it."""
        found: dict[str, Counter[str]] = {}
        for result in self.done.values():
            record = {**result.provenance, **result.provenance["versions"], "corpus": result.corpus}
            for key in record.keys() - {"versions"}:
                if record[key] is not None:
                    found.setdefault(key, Counter())[str(record[key])] += 1
        dates = found.pop("date", None)
        origin = {key: counted(found[key]) for key in sorted(found)}
        return {**origin, "dates": f"{min(dates)} to {max(dates)}"} if dates else origin

    def result(self) -> Result:
        """The figures as a Result, with the configuration of the study."""
        return Result(
            name=f"study/{self.study.name}",
            config={"finished": sorted(self.done), "pending": self.pending},
            metrics=self.finding.metrics,
            provenance=self.origin(),
        )

    @property
    def missing(self) -> str:
        """The pending cells as text, the first ones by name; empty if there are none."""
        more = len(self.pending) - NAMED
        rest = [f"and {more} more"] if more > 0 else []
        return ", ".join([*self.pending[:NAMED], *rest])

    def text(self) -> str:
        """The sections as plain text, without figures."""
        blocks = [f"{self.study.name}: {self.question}", self.finding.answer, self.progress]
        blocks += [f"To do: {self.missing}."] if self.pending else []
        for section in self.sections:
            blocks.append(section.title.upper())
            blocks += [section.text] if section.text else []
            blocks += [table.text() for table in section.tables]
        return "\n\n".join(blocks)

    def markdown(self, figures: Sequence[str] = ()) -> str:
        """The sections as Markdown; ``figures`` are the files of all figures, in order."""
        shown = self.finding.shown
        blocks = [f"# {self.study.name}", f"**{self.finding.answer}**"]
        blocks += [table.markdown() for table in shown.tables]
        blocks += [shown.text] if shown.text and shown.tables else []
        blocks += [ASKED + self.question, self.progress]
        blocks += [f"To do: {self.missing}."] if self.pending else []
        files = iter(figures)
        for section in self.finding.sections:
            blocks.append(f"## {section.title}")
            blocks += [section.text] if section.text else []
            blocks += [table.markdown() for table in section.tables]
            drawn = [next(files) for _ in section.figures] if figures else []
            blocks += [f"![{section.title}]({file})" for file in drawn]
        origin = "; ".join(f"{key}: {value}" for key, value in self.origin().items())
        return "\n\n".join([*blocks, *([origin] if origin else [])]) + "\n"

    def latex(self) -> str:
        """The tables for LaTeX, each under a comment with the title of its section."""
        tables = [
            f"% {section.title}\n{table.latex()}"
            for section in self.sections
            for table in section.tables
        ]
        head = f"% {self.study.name}: {self.progress} Needs the package booktabs."
        return "\n\n".join([head, *tables]) + "\n"

    def write_markdown(self, path: str | Path) -> Path:
        """Write the Markdown, atomically."""
        return write_whole(path, self.markdown().encode())

    def write_latex(self, path: str | Path) -> Path:
        """Write the tables for LaTeX, atomically."""
        return write_whole(path, self.latex().encode())

    def write_page(self, path: str | Path) -> Path:
        """Write the page with its figures, atomically."""
        missing = f" To do: {self.missing}." if self.pending else ""
        head = Section("Progress", self.progress + missing)
        return write_page(
            path,
            f"Study: {self.study.name}",
            [*self.sections, head],
            lead=f"{self.finding.answer} {self.question}",
            provenance=self.origin(),
        )


def status(store: Store) -> Status:
    """Read the finished cells and draw the conclusions."""
    done = store.finished()
    return Status(
        study=store.study,
        done=done,
        pending=[cell.name for cell in store.pending(done)],
        outdated=store.outdated(),
        finding=store.study.find(done),
    )


def counted(values: Counter[str]) -> str:
    """The values as text, with their counts if there are several.

    >>> counted(Counter("aab")), counted(Counter("a"))
    ('a (2), b (1)', 'a')
    """
    if len(values) == 1:
        return next(iter(values))
    return ", ".join(f"{value} ({count})" for value, count in values.items())
