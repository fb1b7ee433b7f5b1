"""Writes the report of a study as files beside its Results: a page and its figures."""

import re
from pathlib import Path

from nestling.core.result import write_whole
from nestling_lab.studies.status import Status

PAGE = "README.md"


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


def standing(svg: str) -> str:
    """Turn a figure of a page into a separate file, with a white background."""
    head = re.match(r"<svg[^>]*>", svg)
    assert head, "no SVG"
    ground = '<rect width="100%" height="100%" fill="white"/>'
    return f"{head[0]}{ground}{svg[head.end() :].rstrip()}\n"
