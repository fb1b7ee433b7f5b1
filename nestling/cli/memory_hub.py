"""nestling memory push and pull: memory files on the Hugging Face hub."""

from dataclasses import dataclass
from pathlib import Path

import tyro


@dataclass(frozen=True, kw_only=True)
class Push:
    """Put a memory file on the Hugging Face hub, with a card.

    The context, open periods and names of documents are left out; the questions that study
    generated are included.
    """

    file: tyro.conf.Positional[Path]
    """Memory file."""
    repository: tyro.conf.Positional[str]
    """Repository on the hub, owner/name; created if it does not exist."""
    base: str | None = None
    """The base model's id on the hub, for the card."""
    licence: str | None = None
    """Licence for the card, such as apache-2.0."""
    names: bool = False
    """Keep the names of the documents, and list them on the card."""
    public: bool = False
    """Make a new repository public."""

    def run(self) -> None:
        """Push, and print the address."""
        from nestling.continual.hub import push_memory

        where = push_memory(
            self.file,
            self.repository,
            base=self.base,
            licence=self.licence,
            names=self.names,
            private=not self.public,
        )
        print(where)


@dataclass(frozen=True, kw_only=True)
class Pull:
    """Fetch a memory file from the Hugging Face hub."""

    repository: tyro.conf.Positional[str]
    """Repository on the hub, owner/name."""
    out: tyro.conf.Positional[Path]
    """New memory file."""
    revision: str | None = None
    """Branch, tag or commit."""

    def run(self) -> None:
        """Fetch, check and write the file."""
        from nestling.continual.hub import pull_memory
        from nestling.data.lock import locked

        with locked(self.out, "nestling memory pull"):
            pull_memory(self.repository, self.out, revision=self.revision)
        print(f"{self.out}: the memory of {self.repository}")
