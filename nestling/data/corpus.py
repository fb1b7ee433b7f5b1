"""Named corpora: documents split into training and held-out, with a hash for the record."""

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from nestling.core.error import UserError, did_you_mean
from nestling.core.registry import Registry
from nestling.data.cache import cache_folder, damaged, digest, keep
from nestling.data.packages import check
from nestling.data.source import Source
from nestling.data.split import ASIDE, TRAINED, normalise, sides
from nestling.data.textfiles import named_field, own_files

CORPORA = Registry(
    "corpus",
    {
        "stdlib": "nestling.data.stdlib:DOCS",
        "stdlib-code": "nestling.data.stdlib:CODE",
        "anarchism": "nestling.data.debian:ANARCHISM",
        "kjv": "nestling.data.debian:KJV",
        "world-english-bible": "nestling.data.debian:WORLD_ENGLISH_BIBLE",
        "python-doc": "nestling.data.debian:MANUAL",
        "standard": "nestling.data.debian:STANDARD",
    },
    former={"web": "world-english-bible"},
)
FORMAT = 2  # of the cached file; increased whenever reading, normalising or splitting changes
HELD_OUT = 0.08  # share of the documents held out for evaluation


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Documents for training and for evaluation."""

    name: str
    documents: list[str]  # for training, in the order of the source
    held_out: list[str]  # for evaluation, without near-duplicates of training documents
    sha256: str  # over all documents and the split
    licence: str

    @property
    def tag(self) -> str:
        """Name and hash, as recorded in a Result."""
        return f"{self.name}@{self.sha256[:16]}"


def split(texts: Iterable[str], held_out: float = HELD_OUT) -> tuple[list[str], list[str]]:
    """Normalise documents, drop empty and repeated ones, and hold some out.

    ``nestling.data.split.sides`` decides which. Returns (training, held-out).
    """
    whole = [normalise(text) for text in texts]
    both = list(zip(whole, sides(lambda: whole, held_out).tolist(), strict=True))
    return [t for t, side in both if side == TRAINED], [t for t, side in both if side == ASIDE]


def _hash(train: list[str], held_out: list[str]) -> str:
    return digest([str(len(train)), *train, str(len(held_out)), *held_out])


def source(name: str) -> Source:
    """The source called ``name``, or the file or folder at that path.

    ``PATH#FIELD`` names the field of JSONL and Parquet records that holds the text. Raises
    UserError if there is neither.
    """
    if name in CORPORA.names():
        return CORPORA.load(name)
    path, field = named_field(name)
    if path.exists():
        return own_files(path, field)
    if os.sep in name or path.suffix:
        raise UserError(f"there is no text at {name}; give the path of a text file or folder")
    raise UserError(
        f"unknown corpus {name!r}: {did_you_mean(name, CORPORA.names())} "
        "Or give the path of a text file"
    )


def _read_cached(path: Path, found: Source) -> Corpus:
    try:
        head, *lines = path.read_text(encoding="utf-8").splitlines()
        about = json.loads(head)
        texts = [json.loads(line) for line in lines]
        train, held_out = texts[: about["train"]], texts[about["train"] :]
        sha256 = _hash(train, held_out)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise damaged(path, error) from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; check its permissions") from error
    if sha256 != about.get("sha256"):
        raise damaged(path, "its hash does not match its text")
    return Corpus(
        name=found.name,
        documents=train,
        held_out=held_out,
        sha256=sha256,
        licence=found.licence,
    )


def load_corpus(name: str, *, held_out: float = HELD_OUT) -> Corpus:
    """Read a corpus, by name or from your own path, split for training and evaluation.

    The first call reads the source and caches the result for later calls. ``held_out`` is the
    share of documents to hold out. Raises UserError for an unknown name, text that is empty,
    binary or not UTF-8, packages not yet fetched, and a damaged cache.
    """
    if not 0 < held_out < 1:
        raise UserError(f"held_out is {held_out}; give a share between 0 and 1")
    found = source(name)
    key = digest([str(FORMAT), found.name, found.version(), repr(held_out)])
    path = cache_folder() / "corpora" / f"{found.name}-{key[:16]}.jsonl"
    return _read_cached(path, found) if path.exists() else _read_source(path, found, held_out)


def _read_source(path: Path, found: Source, held_out: float) -> Corpus:
    train, aside = split(found.read(), held_out)
    about = {
        "name": found.name,
        "licence": found.licence,
        "train": len(train),
        "held_out": len(aside),
        "sha256": _hash(train, aside),
    }
    lines = [json.dumps(item) for item in (about, *train, *aside)]
    keep(path, ("\n".join(lines) + "\n").encode())
    return Corpus(
        name=found.name,
        documents=train,
        held_out=aside,
        sha256=about["sha256"],
        licence=found.licence,
    )


def verify(name: str) -> Corpus:
    """Check the packages and the cached text of a corpus against its source, and return it.

    The source is read and split again. Raises UserError if anything differs.
    """
    found = source(name)
    for package in found.packages:
        check(package)
    corpus = load_corpus(name)
    if _hash(*split(found.read())) != corpus.sha256:
        raise UserError(
            f"the cached text of {name} differs from its source; "
            f"delete {cache_folder() / 'corpora'}"
        )
    return corpus
