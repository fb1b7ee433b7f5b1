"""Writes text as a folder of token shards: streamed, and resumable at every shard."""

import json
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nestling.core.error import UserError
from nestling.core.result import write_json, write_whole
from nestling.data.corpus import HELD_OUT
from nestling.data.preparing import TOKENIZER, VOCAB_SIZE
from nestling.data.shard_writer import SideWriter, dtype_of, sound
from nestling.data.shards import FORMAT, SIDES, file_record, is_prepared, read_manifest
from nestling.data.source import Source
from nestling.data.split import ASIDE, TRAINED, sides, with_sides
from nestling.data.textfiles import MANIFEST
from nestling.data.tokenizer import (
    KINDS,
    byte_tokenizer,
    fingerprint,
    open_tokenizer,
    train_tokenizer,
)
from nestling.data.tokens import token_rows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PROGRESS = ".progress.json"  # exists while the folder is being written
FETCHED = ".fetched"  # texts streamed from the hub, deleted at the end
CHOSEN = ".sides.bin"  # one byte per text of the source: its side
NUMBERS = {TRAINED: "train", ASIDE: "held_out"}

Tell = Callable[[str, int, int], None]  # (what, done, total), total 0 if unknown


@dataclass(frozen=True, kw_only=True)
class Shaping:
    """How text is turned into shards."""

    tokenizer: str = TOKENIZER  # one of KINDS, or a folder or hub name of a tokenizer
    vocab_size: int = VOCAB_SIZE  # tokens, at most, of a tokenizer trained on the text
    held_out: float = HELD_OUT  # share of the documents held out for measuring
    shard_tokens: int = 2**26  # approximate tokens in a shard

    def __post_init__(self) -> None:
        if not 0 < self.held_out < 1:
            raise UserError(f"held_out is {self.held_out}; give a share between 0 and 1")
        if self.shard_tokens < 1:
            raise UserError(f"shard_tokens is {self.shard_tokens}; give at least 1")


def silent(what: str, done: int, total: int) -> None:
    """Report nothing."""


def write_shards(
    source: Source, folder: Path, shaping: Shaping = Shaping(), tell: Tell = silent
) -> dict[str, Any]:
    """Write the tokens of a source to a folder and return its manifest.

    Documents, split and tokens are the same as from ``load_corpus`` and ``prepare``. The source
    is streamed four times: twice for the split, once for the tokenizer if one is trained, once
    for the tokens. A folder begun by an earlier call with the same source and shaping is
    continued and ends with the same bytes; a complete one is left as is. Raises UserError for
    text that cannot be read, a folder with other contents, and a full disk; nothing that exists
    is lost.
    """
    work = _Work(source, folder, shaping, tell)
    try:
        return work.manifest() if is_prepared(folder) else work.run()
    except OSError as error:
        raise UserError(
            f"cannot write {folder}: {error.strerror}; free some space or choose another folder. "
            "What is written stays; run the same command again to continue"
        ) from error


class _Work:
    def __init__(self, source: Source, folder: Path, shaping: Shaping, tell: Tell):
        self.source, self.folder, self.shaping, self.tell = source, folder, shaping, tell
        self.identity = {
            "format": FORMAT,
            "source": source.name,
            "version": source.version(),
            **asdict(shaping),
        }

    def manifest(self) -> dict[str, Any]:
        """The manifest of the folder if it is complete; UserError if it is of another text."""
        about = read_manifest(self.folder)
        self._compare(about["made_of"])
        return about

    def _compare(self, other: dict[str, Any]) -> None:
        for name, value in self.identity.items():
            if other.get(name) != value:
                what = "its text has changed" if name == "version" else f"its {name} differs"
                raise UserError(
                    f"{self.folder} holds other tokens ({what}); choose another folder with --out"
                )

    def run(self) -> dict[str, Any]:
        self.folder.mkdir(parents=True, exist_ok=True)
        progress = self._progress()
        chosen = self._sides()
        tokenizer = self._tokenizer(chosen)
        written = self._tokens(chosen, tokenizer, progress)
        records = {
            shard["file"]: {"bytes": shard["bytes"], "sha256": shard["sha256"]}
            for name in SIDES
            for shard in written[name]["shards"]
        }
        records |= {f"{name}.bounds": file_record(self.folder / f"{name}.bounds") for name in SIDES}
        about = {
            "format": FORMAT,
            "corpus": self.source.name,
            "licence": self.source.licence,
            "made_of": self.identity,
            "dtype": dtype_of(len(tokenizer)),
            "tokenizer": {
                "tokenizer": self.shaping.tokenizer,
                "vocab_size": self.shaping.vocab_size,
                "tokens": len(tokenizer),
                "sha256": fingerprint(tokenizer),
            },
            "sides": written,
            "files": records,
        }
        write_json(self.folder / MANIFEST, about)
        # temporary files of a killed process are deleted as well
        self._drop(FETCHED, CHOSEN, f".{CHOSEN}.*", PROGRESS, f".{PROGRESS}.*", f".{MANIFEST}.*")
        return about

    def _progress(self) -> dict[str, Any]:
        """Claim the folder, and return the progress of an earlier call."""
        path = self.folder / PROGRESS
        if path.exists():
            try:
                found = json.loads(path.read_text(encoding="utf-8"))
                if any(found["sides"][name]["shards"] for name in SIDES):
                    self._compare(found["made_of"])
                elif found["made_of"] != self.identity:
                    self._begin_anew()
                return found
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(f"{path} cannot be read; choose another folder") from error
        if any(entry.name != FETCHED for entry in self.folder.iterdir()):
            raise UserError(
                f"{self.folder} is not empty and not a folder of tokens; choose another one"
            )
        return self._save({name: {"shards": []} for name in SIDES})

    def _begin_anew(self) -> None:
        """Drop everything of an earlier text or shaping; there was no shard yet."""
        self._drop(FETCHED, CHOSEN, ".tokenizer", "tokenizer*.json", "*.bin", "*.bounds")
        self._save({name: {"shards": []} for name in SIDES})

    def _drop(self, *patterns: str) -> None:
        for entry in [entry for pattern in patterns for entry in self.folder.glob(pattern)]:
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()

    def _save(self, written: dict[str, Any]) -> dict[str, Any]:
        about = {"made_of": self.identity, "sides": written}
        write_json(self.folder / PROGRESS, about)
        return about

    def _texts(self, what: str, total: int = 0) -> Iterator[str]:
        for done, text in enumerate(self.source.read(), start=1):
            yield text
            if done % 256 == 0:
                self.tell(what, done, total)

    def _sides(self) -> np.ndarray:
        path = self.folder / CHOSEN
        if path.exists():
            return np.fromfile(path, dtype=np.uint8)
        found = sides(lambda: self._texts("texts sorted"), self.shaping.held_out)
        write_whole(path, found.tobytes())
        return found

    def _tokenizer(self, chosen: np.ndarray) -> "PreTrainedTokenizerFast":
        kind = self.shaping.tokenizer
        if (self.folder / "tokenizer.json").is_file():
            return open_tokenizer(self.folder)
        if kind == "bytes":
            made = byte_tokenizer()
        elif kind in KINDS:
            read = with_sides(self._texts("texts learned by the tokenizer", len(chosen)), chosen)
            made = train_tokenizer(
                (text for text, side in read if side == TRAINED),
                self.shaping.vocab_size,
                digits=kind == "bpe-digits",
            )
        else:
            made = open_tokenizer(kind)
        draft = self.folder / ".tokenizer"
        made.save_pretrained(draft)
        # the file that marks the tokenizer as complete comes last
        for file in sorted(draft.iterdir(), key=lambda file: file.name == "tokenizer.json"):
            os.replace(file, self.folder / file.name)
        draft.rmdir()
        return made

    def _tokens(
        self, chosen: np.ndarray, tokenizer: "PreTrainedTokenizerFast", progress: dict[str, Any]
    ) -> dict[str, Any]:
        dtype, size = dtype_of(len(tokenizer)), self.shaping.shard_tokens
        writers = {
            name: SideWriter(
                self.folder,
                name,
                dtype,
                size,
                sound(self.folder, name, progress["sides"][name]["shards"]),
            )
            for name in SIDES
        }

        def state() -> dict[str, Any]:
            return {name: {"shards": writer.shards} for name, writer in writers.items()}

        places: deque[tuple[str, int]] = deque()  # (side, index) of the texts being encoded

        def waiting() -> Iterator[str]:
            read = with_sides(self._texts("texts encoded", len(chosen)), chosen)
            for number, (text, side) in enumerate(read):
                name = NUMBERS.get(side)
                if name is not None and number >= writers[name].done:
                    places.append((name, number))
                    yield text

        for ids in token_rows(waiting(), tokenizer):
            name, number = places.popleft()
            if writers[name].add(ids, after=number + 1):
                self._save(state())
        for writer in writers.values():
            writer.close(after=len(chosen))
        return state()
