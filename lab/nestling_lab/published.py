"""The numbers printed in the paper, with the version of the paper they are from."""

import json
from functools import cache
from pathlib import Path
from typing import Any

from nestling.core.error import UserError, did_you_mean
from nestling.report.table import Table

FILE = Path(__file__).with_name("published.json")


@cache
def record() -> dict[str, Any]:
    """The file with all tables; figures are as printed, with misprints kept and noted."""
    return json.loads(FILE.read_text(encoding="utf-8"))


def published_names() -> list[str]:
    """The names of the tables."""
    return list(record()["tables"])


def published(name: str, *, columns: tuple[str, ...] = (), rows: tuple[str, ...] = ()) -> Table:
    """A table of the paper, titled with its version; ``columns`` and ``rows`` select parts of it.

    The paper gives no seeds, intervals or errors for its numbers. Raises UserError for an unknown
    name.

    >>> print(published("recall", columns=("SWDE", "FDA"), rows=("Hope",)).text())
    arXiv 2512.24695v1, Table 3 (size of the models not stated)
    <BLANKLINE>
    as printed   SWDE    FDA
    ----------  -----  -----
    Hope        65.90  41.90
    """
    tables = record()["tables"]
    if name not in tables:
        raise UserError(f"unknown published table {name!r}: {did_you_mean(name, tables)}")
    found = tables[name]
    heads = record()["columns"][found["columns"]]
    chosen = [heads.index(column) for column in columns] or range(len(heads))
    body = [
        (row, *(float(values[i]) for i in chosen))
        for row, values in found["rows"].items()
        if not rows or row in rows
    ]
    title = found["version"] + (f". {found['note']}" if found["note"] else "")
    return Table(columns=("as printed", *(heads[i] for i in chosen)), rows=body, title=title)
