"""Files with one text per record: JSONL, and Parquet with pyarrow."""

import importlib
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from nestling.core.error import UserError

FIELD = "text"  # the default


class Record(NamedTuple):
    """A text and its place in the file, such as "line 3"."""

    place: str
    text: str


def json_records(path: Path, lines: Iterable[str], field: str) -> Iterator[Record]:
    """The texts in a field of JSON objects, one per line; ``lines`` are those of the file."""
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        place = f"line {number}"
        try:
            record = json.loads(line)
        except ValueError as error:
            raise UserError(f"{path} {place} is not JSON ({error}); correct the line") from error
        found = record.get(field) if isinstance(record, dict) else None
        yield Record(place, _text(path, place, field, found))


def parquet_records(path: Path, field: str) -> Iterator[Record]:
    """The texts in a column of a Parquet file. Raises UserError without pyarrow."""
    try:
        arrow = importlib.import_module("pyarrow")
        parquet = importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise UserError(f"reading {path} needs pyarrow: pip install 'nestling[data]'") from error
    try:
        with parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if field not in names:
                raise UserError(
                    f'{path} has no column "{field}"; name one of its columns, as in '
                    f"{path.name}#{names[0] if names else 'body'}"
                )
            batches = file.iter_batches(columns=[field])
            values = (value for batch in batches for value in batch.column(0).to_pylist())
            for number, value in enumerate(values, start=1):
                place = f"row {number}"
                yield Record(place, _text(path, place, field, value))
    except (arrow.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())[:160]
        raise UserError(f"{path} cannot be read as Parquet ({reason})") from error


def _text(path: Path, place: str, field: str, value: Any) -> str:
    if not isinstance(value, str):
        raise UserError(
            f'{path} {place} has no string "{field}"; name the field that holds the text, as in '
            f"{path.name}#body"
        )
    if re.search("[\0\ud800-\udfff]", value):
        raise UserError(f"{path} {place} contains NUL or a lone surrogate; correct the line")
    return value
