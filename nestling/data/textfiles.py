"""Your own texts: plain text, Markdown, HTML, JSONL and Parquet files, and folders of them."""

import contextlib
import re
from collections.abc import Generator, Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import BinaryIO, NamedTuple

from nestling.core.error import UserError
from nestling.data.cache import digest, stamp
from nestling.data.pages import html_text, markdown_text
from nestling.data.records import FIELD, Record, json_records, parquet_records
from nestling.data.source import Source

JSONL = {".jsonl", ".ndjson"}
PARQUET = {".parquet", ".pq"}
PAGES = {
    ".md": markdown_text,
    ".markdown": markdown_text,
    ".html": html_text,
    ".htm": html_text,
    ".xhtml": html_text,
}
MANIFEST = "tokens.json"  # in a folder written by `nestling data prepare`
READING = "2"  # increased whenever the text read from the same files changes
ENOUGH = 20  # documents; below this, files are cut into passages so that some can be held out
PASSAGE = (200, 8000)  # the range of the target length of a passage, characters


class Named(NamedTuple):
    """A document and its name: its file, and in a file of records also its place there."""

    name: str
    text: str
    record: bool = False  # one of several in its file


def decode_text(content: bytes, name: object) -> str:
    """Decode UTF-8 and drop a byte order mark. Raises UserError for other encodings or binary."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{name} is not UTF-8 (byte {error.start}); convert it, for example with iconv"
        ) from error
    if "\0" in text:
        raise UserError(f"{name} is binary (it contains NUL bytes); give a UTF-8 text file")
    return text


def read_text(path: Path) -> str:
    """The text of a file, verbatim. Raises UserError if unreadable, binary or not UTF-8."""
    with _opened(path) as file:
        return decode_text(file.read(), path)


def read_lines(path: Path) -> Iterator[str]:
    """Yield the lines of a file one by one; the same errors as ``read_text``."""
    with _opened(path) as file:
        for number, line in enumerate(file, start=1):
            yield decode_text(line, f"{path} line {number}")


@contextlib.contextmanager
def _opened(path: Path) -> Generator[BinaryIO]:
    try:
        with open(path, "rb") as file:
            yield file
    except OSError as error:
        raise UserError(
            f"cannot read {path}: {error.strerror}; check path and permissions"
        ) from error


def named_field(text: str | Path) -> tuple[Path, str]:
    """Split ``FILE#FIELD`` into a path and the field of its records; the default is "text".

    >>> named_field("notes.txt")
    (PosixPath('notes.txt'), 'text')
    """
    path = Path(text).expanduser()
    head, mark, field = str(text).rpartition("#")
    if mark and head and field and not path.exists() and (file := Path(head).expanduser()).exists():
        return file, field
    return path, FIELD


def documents_in(path: Path, field: str = FIELD) -> list[Named]:
    """The documents of ``documents_of`` for all files under ``path``, sorted."""
    return list(documents_of(path, _list_files(path), field))


def documents_of(path: Path, files: Iterable[Path], field: str = FIELD) -> Iterator[Named]:
    """Yield the documents in ``files``: each record of JSONL and Parquet, else each file.

    HTML and Markdown are converted to plain text, and line ends to those of Unix. Hidden files and
    blank documents are left out; raises UserError if nothing is left. Records are read one by one.
    """
    empty = True
    for file in files:
        name = file.relative_to(path).as_posix() if path.is_dir() else file.name
        for document in _read(file, name, field):
            text = re.sub("\r\n?", "\n", document.text)
            if text.strip():
                empty = False
                yield document._replace(text=text)
    if empty:
        raise UserError(f"{path} is empty; give UTF-8 text with at least one word")


def _read(file: Path, name: str, field: str) -> Iterator[Named]:
    kind = file.suffix.lower()
    if kind in JSONL:
        yield from _name_records(name, json_records(file, read_lines(file), field))
    elif kind in PARQUET:
        yield from _name_records(name, parquet_records(file, field))
    else:
        text = read_text(file)
        yield Named(name, PAGES[kind](text) if kind in PAGES else text)


def _name_records(name: str, records: Iterator[Record]) -> Iterator[Named]:
    for place, text in records:
        yield Named(f"{name} {place}", text, record=True)


def _list_files(path: Path) -> list[Path]:
    if (path / MANIFEST).is_file():
        raise UserError(
            f"{path} holds prepared tokens, not text; train on it with nestling train --corpus"
        )
    if not path.is_dir():
        return [path]
    inside = (entry for entry in path.rglob("*") if entry.is_file())
    visible = [e for e in inside if not any(p.startswith(".") for p in e.relative_to(path).parts)]
    if not visible:
        raise UserError(f"{path} contains no files; give a folder with UTF-8 text files")
    return sorted(visible)


def passages(text: str, size: int) -> list[str]:
    """Cut a text into passages of about ``size`` characters, at blank lines if there are any.

    Without blank lines it is cut at line ends, and very long lines at a space. Joining the
    passages gives the text back.
    """
    lines = [
        piece
        for line in text.splitlines(keepends=True)
        for piece in re.findall(rf"(?s).{{1,{size}}}(?:\s+|\Z)|.{{1,{size}}}", line)
    ]
    cut, length = [[]], 0
    for line in lines:
        cut[-1].append(line)
        length += len(line)
        if length >= size and (not line.strip() or length >= 2 * size):
            cut.append([])
            length = 0
    return ["".join(part) for part in cut if part]


def read_files(path: Path, field: str = FIELD) -> Iterator[str]:
    """Yield the texts of files to train on, records first.

    Fewer than 20 documents that are not records are cut into passages (see ``passages``).
    """
    files = _list_files(path)
    files.sort(key=lambda file: file.suffix.lower() not in JSONL | PARQUET)
    found = documents_of(path, files, field)
    first = list(islice(found, ENOUGH))
    whole = [document.text for document in first if not document.record]
    if whole and len(first) < ENOUGH:
        least, most = PASSAGE
        size = min(max(sum(map(len, whole)) // (4 * ENOUGH), least), most)
        yield from (document.text for document in first if document.record)
        yield from (part for text in whole for part in passages(text, size))
    else:
        yield from (document.text for document in chain(first, found))


def own_files(path: Path, field: str = FIELD) -> Source:
    """A source that reads the user's own files."""
    return Source(
        name=path.name,
        summary=f"text under {path}",
        licence="as stated by its owner",
        read=lambda: read_files(path, field),
        version=lambda: digest([READING, field, str(path.resolve()), stamp(_list_files(path))]),
    )
