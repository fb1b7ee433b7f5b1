"""A corpus of one's own: a text file, a folder of text files, or JSONL with a "text" field."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

from nestling.core.error import UserError
from nestling.data.cache import digest, stamp
from nestling.data.source import Source

ENOUGH = 20  # documents; below this, files are cut into passages so that some can be held out
PASSAGE = (200, 8000)  # characters: the least and the most that a cut aims at


def read_text(path: Path) -> str:
    """The text of a file; not UTF-8, binary or unreadable raises UserError."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not UTF-8 (byte {error.start}); convert it, for example with iconv"
        ) from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; check path and rights") from error
    if "\0" in text:
        raise UserError(f"{path} is binary, not text (it holds NUL bytes); give a UTF-8 text file")
    return text


def _records(path: Path) -> Iterator[str]:
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            raise UserError(f"{path} line {number} is not JSON ({error}); mend the line") from error
        text = record.get("text") if isinstance(record, dict) else None
        if not isinstance(text, str):
            raise UserError(f'{path} line {number} has no string "text"; name the field "text"')
        if re.search("[\0\ud800-\udfff]", text):
            raise UserError(f"{path} line {number} holds NUL or half a character; mend the line")
        yield text


def passages(text: str, size: int) -> list[str]:
    """Cut a text into passages of about ``size`` characters, at blank lines where there are any.

    Without blank lines the cut falls at a line's end, in a very long line at a space. Nothing is
    lost: the passages joined are the text.
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


def _listed(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    inside = (entry for entry in path.rglob("*") if entry.is_file())
    visible = [e for e in inside if not any(p.startswith(".") for p in e.relative_to(path).parts)]
    if not visible:
        raise UserError(f"{path} holds no files; give a folder with UTF-8 text in it")
    return sorted(visible)


def read_files(path: Path) -> list[str]:
    """The documents of a path: each file is one, in JSONL each line.

    Fewer than 20 text documents are cut into passages (see ``passages``).
    """
    lines: list[str] = []
    whole: list[str] = []
    for file in _listed(path):
        if file.suffix == ".jsonl":
            lines += _records(file)
        else:
            whole.append(read_text(file))
    if whole and len(whole) + len(lines) < ENOUGH:
        least, most = PASSAGE
        size = min(max(sum(map(len, whole)) // (4 * ENOUGH), least), most)
        whole = [part for text in whole for part in passages(text, size)]
    return lines + whole


def own_files(path: Path) -> Source:
    """The source that reads a path of one's own."""
    return Source(
        name=path.name,
        summary=f"text under {path}",
        licence="as stated by its owner",
        read=lambda: read_files(path),
        version=lambda: digest([str(path.resolve()), stamp(_listed(path))]),
    )
