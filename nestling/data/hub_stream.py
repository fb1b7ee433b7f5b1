"""A data set of the Hugging Face hub as a source, streamed once into a folder by ``datasets``."""

import importlib
import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import count, islice
from pathlib import Path
from typing import Any

from nestling.core.error import UserError
from nestling.core.result import write_whole
from nestling.data.cache import digest
from nestling.data.records import FIELD
from nestling.data.source import Source
from nestling.data.textfiles import read_files

MARK = "hf:"  # before the name of a data set
PART = 10_000  # texts in a file
DONE = ".done"


def hub_source(
    name: str, folder: Path, *, configuration: str | None = None, split: str = "train"
) -> Source:
    """The texts of ``hf:OWNER/NAME`` or ``hf:OWNER/NAME#FIELD``, kept in ``folder`` as JSONL.

    They are fetched on the first read; later reads use the files, and an interrupted fetch
    continues. A local folder or file that ``datasets`` can read works as well.
    """
    repository, _, field = name.removeprefix(MARK).partition("#")

    def read() -> Iterator[str]:
        if not (folder / DONE).exists():
            _fetch(_stream(repository, configuration, split), field or FIELD, repository, folder)
        return read_files(folder)

    return Source(
        name=Path(repository).name,
        summary=f"data set {repository} of the Hugging Face hub",
        licence="as stated by its owner",
        read=read,
        version=lambda: digest([repository, configuration or "", split, field]),
    )


def _stream(repository: str, configuration: str | None, split: str) -> Any:
    try:
        library = importlib.import_module("datasets")
    except ImportError as error:
        raise UserError(
            "data sets of the hub need the package datasets: pip install 'nestling[data]'"
        ) from error
    try:
        return library.load_dataset(repository, configuration, split=split, streaming=True)
    except Exception as error:  # the hub, the network and the files raise many kinds
        raise UserError(
            f"cannot open {repository} ({reason_of(error)}); check its name, --configuration, "
            "--split and the network"
        ) from error


def _fetch(stream: Any, field: str, repository: str, folder: Path) -> None:
    """Write the texts that are still missing, one file at a time, each atomically."""
    here = len(list(folder.glob("part-*.jsonl")))
    rows = _rows(stream.skip(here * PART) if here else stream, field, repository)
    for number in count(here):
        part = list(islice(rows, PART))
        if not part:
            break
        lines = "".join(json.dumps({FIELD: text}) + "\n" for text in part)
        write_whole(folder / f"part-{number:06d}.jsonl", lines.encode())
    write_whole(folder / DONE, b"")


def _rows(stream: Iterable[Mapping[str, Any]], field: str, repository: str) -> Iterator[str]:
    rows = iter(stream)
    while True:
        try:
            row = next(rows, None)
        except Exception as error:  # the hub and the network raise many kinds
            raise UserError(
                f"reading {repository} was interrupted ({reason_of(error)}); run the command again "
                "to continue"
            ) from error
        if row is None:
            return
        if not isinstance(row.get(field), str):
            raise UserError(
                f'a record of {repository} has no string "{field}"; its fields are '
                f"{', '.join(row)}: name one, as in {MARK}{repository}#{next(iter(row), 'body')}"
            )
        yield row[field]


def reason_of(error: Exception) -> str:
    """The message of an error on one line, cut at 160 characters."""
    return " ".join(str(error).split())[:160]
