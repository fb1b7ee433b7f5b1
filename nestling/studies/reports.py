"""A study's report as files: a page, Markdown with its figures, tables in LaTeX."""

import re
import shutil
from pathlib import Path

from nestling.core.result import write_whole
from nestling.studies.status import Status


def write_report(found: Status, folder: str | Path) -> list[Path]:
    """Write ``<study>.html`` (stands alone), ``<study>.md``, ``<study>.tex`` and the figures.

    The figures of the Markdown are SVG files in ``<study>/``; those of an earlier report that are
    no more there are deleted. Works with cells missing; the report then says which.
    """
    folder, name = Path(folder), found.study.name
    figures = [figure for section in found.finding.sections for figure in section.figures]
    own = folder / name
    if own.is_dir():
        shutil.rmtree(own)
    names = [f"{name}/{place}.svg" for place in range(1, len(figures) + 1)]
    drawn = [
        write_whole(folder / file, standing(figure).encode())
        for file, figure in zip(names, figures, strict=True)
    ]
    return [
        found.write_page(folder / f"{name}.html"),
        write_whole(folder / f"{name}.md", found.markdown(names).encode()),
        write_whole(folder / f"{name}.tex", found.latex().encode()),
        *drawn,
    ]


def standing(svg: str) -> str:
    """A figure of a page as a file of its own: on white, whatever is behind it."""
    head = re.match(r"<svg[^>]*>", svg)
    assert head, "no SVG"
    ground = '<rect width="100%" height="100%" fill="white"/>'
    return f"{head[0]}{ground}{svg[head.end() :].rstrip()}\n"
