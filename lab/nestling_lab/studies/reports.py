"""Writes the report of a study as files beside its Results, and the index of all reports."""

import re
from collections.abc import Iterable
from pathlib import Path

from nestling.core.result import write_whole
from nestling.report import Table
from nestling_lab.studies.status import ASKED, Status

PAGE = "README.md"
INDEX = """# Results

One folder for each study: a Result for each of its cells (JSON, with provenance), and the page that
`nestling study report` writes from them. A page opens with the answer and the table that shows it;
the method, further figures and what is still to do follow. `nestling study report` writes this list
too. The studies of optimizers together: [optimizers.md](optimizers.md). Which command makes which
table or figure of the paper: [experiments.md](../docs/experiments.md).

"""


def write_report(found: Status, folder: str | Path) -> list[Path]:
    """Write ``README.md`` and its figures, ``1.svg`` and so on, to the folder of the study.

    Figures of an earlier report that no longer exist are deleted. The report may be incomplete; it
    then says which cells are missing.
    """
    folder = Path(folder)
    figures = [figure for section in found.finding.sections for figure in section.figures]
    for old in folder.glob("*.svg"):
        old.unlink()
    names = [f"{place}.svg" for place in range(1, len(figures) + 1)]
    drawn = [
        write_whole(folder / file, standing(figure).encode())
        for file, figure in zip(names, figures, strict=True)
    ]
    return [write_whole(folder / PAGE, found.markdown(names).encode()), *drawn]


def write_index(root: str | Path, names: Iterable[str]) -> Path:
    """Write ``README.md`` of all results: the studies that have a page, with their answers."""
    pages = {name: Path(root) / name / PAGE for name in names}
    rows = [
        (f"[{name}]({name}/{PAGE})", *asked_and_answered(page.read_text(encoding="utf-8")))
        for name, page in pages.items()
        if page.exists()
    ]
    table = Table(columns=("study", "question", "answer"), rows=rows).markdown()
    return write_whole(Path(root) / PAGE, f"{INDEX}{table}\n".encode())


def asked_and_answered(page: str) -> tuple[str, str]:
    """The question and the answer on a page."""
    blocks = page.split("\n\n")
    asked = next(block for block in blocks if block.startswith(ASKED))
    return asked.removeprefix(ASKED), blocks[1].strip("*")


def standing(svg: str) -> str:
    """Turn a figure of a page into a separate file, with a white background."""
    head = re.match(r"<svg[^>]*>", svg)
    assert head, "no SVG"
    ground = '<rect width="100%" height="100%" fill="white"/>'
    return f"{head[0]}{ground}{svg[head.end() :].rstrip()}\n"
