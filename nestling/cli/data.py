"""`nestling data list|fetch|verify`: which corpora there are, and whether they are intact."""

from dataclasses import dataclass
from typing import Annotated

import tyro


@dataclass(frozen=True, kw_only=True)
class List:
    """Name every corpus and set of records, its licence, and whether it is here."""

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
    """What `nestling data list` names; or bigbench, questions for measuring only."""

    def run(self) -> None:
        """Fetch what is not here yet; what is here is checked."""
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
    """Read a corpus anew from its source and compare packages and text with what is kept.

    Without a name, every corpus that is here is verified.
    """

    name: tyro.conf.Positional[str | None] = None  # a corpus, or a path of one's own

    def run(self) -> None:
        """Print name, hash and size of each corpus verified; a difference is an error."""
        from nestling.data.corpus import CORPORA, source, verify
        from nestling.data.packages import fetched

        names = [self.name] if self.name else CORPORA.names()
        for name in names:
            if self.name or all(fetched(package) for package in source(name).packages):
                corpus = verify(name)
                count = len(corpus.documents) + len(corpus.held_out)
                print(f"{name}: ok, {count} documents, sha256 {corpus.sha256}")


Command = (
    Annotated[List, tyro.conf.subcommand("list")]
    | Annotated[Fetch, tyro.conf.subcommand("fetch")]
    | Annotated[Verify, tyro.conf.subcommand("verify")]
)
