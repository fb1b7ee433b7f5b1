"""A folder of tokens: shards of ids, the bounds of documents, the tokenizer, and a manifest.

    tokens.json           the manifest, written last: contents, and the sha256 of every file
    train-00000.bin ...   token ids end to end, uint16 or uint32, little-endian
    train.bounds          int64: the start of each document over all shards, and the last end
    held_out-00000.bin, held_out.bounds
    tokenizer.json ...    the tokenizer, in the format of transformers

A document lies in one shard, between two end tokens.
"""

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from nestling.core.error import UserError
from nestling.core.result import write_json
from nestling.data.cache import cache_folder, digest, stamp
from nestling.data.corpus import Corpus
from nestling.data.mapped import MappedIds, map_bounds
from nestling.data.textfiles import MANIFEST
from nestling.data.tokenizer import fingerprint, open_tokenizer
from nestling.data.tokens import Documents, Prepared

FORMAT = 1
SIDES = ("train", "held_out")


def is_prepared(name: str | Path) -> bool:
    """Whether this is a complete folder of ``nestling data prepare``."""
    return (Path(name).expanduser() / MANIFEST).is_file()


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read the manifest of a folder. Raises UserError if it has another format."""
    path = folder / MANIFEST
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["format"] != FORMAT:
            raise UserError(
                f"{folder} has format {found['format']}, this version reads {FORMAT}; "
                "prepare the text again"
            )
        if sorted(found["sides"]) != sorted(SIDES) or not found["files"]:
            raise ValueError("it lists no token files")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} cannot be read ({error}); prepare the text again") from error
    return found


def open_shards(name: str | Path) -> Prepared:
    """Open a folder of tokens, memory-mapped.

    The corpus has a name and a hash only: its texts are not kept. Every file is compared with its
    sha256 when it is first opened (again with ``nestling data verify``); a damaged one raises
    UserError.
    """
    folder = Path(name).expanduser()
    about = read_manifest(folder)
    _check_once(folder, about)
    tokenizer = open_tokenizer(folder)
    if fingerprint(tokenizer) != about["tokenizer"]["sha256"]:
        raise UserError(
            f"the tokenizer in {folder} is not the one its tokens were made with; "
            "prepare the text again"
        )
    return Prepared(
        Corpus(
            name=about["corpus"],
            documents=[],
            held_out=[],
            sha256=_tokens_hash(about),
            licence=about["licence"],
        ),
        tokenizer,
        *(
            Documents(
                ids=MappedIds([folder / one["file"] for one in side["shards"]], about["dtype"]),
                bounds=map_bounds(folder / f"{side_name}.bounds"),
                pad_id=tokenizer.pad_token_id,
            )
            for side_name, side in ((name, about["sides"][name]) for name in SIDES)
        ),
    )


def verify_shards(name: str | Path) -> dict[str, Any]:
    """Compare every file of a folder with its sha256, and return the manifest.

    Raises UserError that names the first damaged file.
    """
    folder = Path(name).expanduser()
    about = read_manifest(folder)
    for file, record in about["files"].items():
        check_file(folder / file, record)
    return about


def check_file(path: Path, record: Mapping[str, Any]) -> None:
    """Raise UserError unless a file has the recorded size and sha256."""
    try:
        size = path.stat().st_size
        same = size == record["bytes"] and file_digest(path) == record["sha256"]
    except OSError as error:
        raise UserError(
            f"cannot read {path}: {error.strerror}; check its rights, or prepare the text again"
        ) from error
    if not same:
        said = "has changed" if size == record["bytes"] else "is truncated or longer"
        raise UserError(f"{path} {said}; copy it again, or prepare the text in another folder")


def file_digest(path: Path) -> str:
    """The sha256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_record(path: Path) -> dict[str, Any]:
    """Size and sha256 of a file, as recorded in a manifest."""
    return {"bytes": path.stat().st_size, "sha256": file_digest(path)}


def side_names(about: Mapping[str, Any]) -> Iterator[tuple[str, int, int]]:
    """(name, documents, tokens) of each side."""
    for name in SIDES:
        shards = about["sides"][name]["shards"]
        yield name, sum(s["documents"] for s in shards), sum(s["tokens"] for s in shards)


def _tokens_hash(about: Mapping[str, Any]) -> str:
    """The hash over all token files, which identifies the text in a Result."""
    return digest(record["sha256"] for _, record in sorted(about["files"].items()))


def _check_once(folder: Path, about: Mapping[str, Any]) -> None:
    """``verify_shards``, unless the cache records that these files passed and are unchanged."""
    files = [folder / file for file in about["files"]]
    with contextlib.suppress(OSError):  # a missing file, which the check below reports
        now = digest([stamp(files), json.dumps(about, sort_keys=True)])
        place = cache_folder() / "checked" / f"{now}.json"
        if place.exists():
            return
    verify_shards(folder)
    with contextlib.suppress(UserError):  # the cache cannot be written: check again next time
        write_json(place, {"folder": str(folder.resolve())})
