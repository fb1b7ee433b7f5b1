"""nestling memory: inspect, copy, merge, reset, export, share and consolidate memory files."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from nestling.cli.memory_hub import Pull, Push


@dataclass(frozen=True, kw_only=True)
class Show:
    """Show what is in a memory file."""

    file: tyro.conf.Positional[Path]
    """Memory file."""
    model: tyro.conf.Positional[str | None] = None
    """The model it was learned with: its questions are then asked again."""

    def run(self) -> None:
        """Print base model, levels, documents and clocks."""
        from nestling.continual.file import read_memory
        from nestling.continual.memory import show
        from nestling.core.error import UserError
        from nestling.report import Table

        memory = read_memory(self.file)
        if self.model is not None and not memory.about.get("studied"):
            raise UserError(
                f"nothing in {self.file} was studied, so there is nothing to ask; leave the model "
                "out, or measure a text with nestling learn --probe"
            )
        print(Table(columns=("", str(self.file)), rows=show(memory)).text())
        if self.model is not None:
            self._ask(self.model)

    def _ask(self, model: str) -> None:
        """Ask the questions of each studied document, and print how many are answered now."""
        from nestling.continual.opening import open_learner
        from nestling.continual.study.session import known_now
        from nestling.report import Table

        learner = open_learner(model, self.file, must_exist=True)
        rows = [(one.name, f"{known} of {asked}") for one, known, asked in known_now(learner)]
        print(Table(columns=("document", "right now"), rows=rows).text())


@dataclass(frozen=True, kw_only=True)
class Forget:
    """Remove what was learned from one document."""

    file: tyro.conf.Positional[Path]
    """Memory file; it is rewritten."""
    document: tyro.conf.Positional[str]
    """Name, number (from 0) or beginning of the checksum, as `show` prints them."""

    def run(self) -> None:
        """Rewrite the file."""
        _forget(self.file, self.document)


@dataclass(frozen=True, kw_only=True)
class Undo:
    """Undo the study of the last document: the memory is as it was before."""

    file: tyro.conf.Positional[Path]
    """Memory file; it is rewritten."""

    def run(self) -> None:
        """Rewrite the file."""
        _forget(self.file, None)


def _forget(file: Path, document: str | None) -> None:
    from nestling.continual.file import read_memory, write_memory
    from nestling.continual.memory import forgotten
    from nestling.data.lock import locked

    with locked(file, "nestling memory forget"):
        left, name = forgotten(read_memory(file), document)
        write_memory(file, left)
    print(f"{file}: {name} is forgotten")


@dataclass(frozen=True, kw_only=True)
class Diff:
    """Show how two memory files of one base model differ."""

    first: tyro.conf.Positional[Path]
    """Memory file."""
    second: tyro.conf.Positional[Path]
    """Another."""

    def run(self) -> None:
        """Print how far each level and document moved, and what only one has read."""
        from nestling.continual.compare import diff, documents_apart
        from nestling.continual.file import read_memory
        from nestling.report import Table

        one, two = read_memory(self.first), read_memory(self.second)
        rows = [(row.level, *(f"{value:.4g}" for value in row[1:])) for row in diff(one, two)]
        columns = ("level", "moved in the first", "in the second", "difference", "cosine")
        print(Table(columns=columns, rows=rows).text())
        pairs = zip((self.first, self.second), documents_apart(one, two), strict=True)
        for file, names in pairs:
            if names:
                print(f"only in {file}: {', '.join(names)}")


@dataclass(frozen=True, kw_only=True)
class Fork:
    """Copy a memory file, optionally in a smaller form."""

    file: tyro.conf.Positional[Path]
    """Memory file."""
    out: tyro.conf.Positional[Path]
    """New file."""
    storage: str | None = None
    """exact, 16bit or rank:R; the smaller forms leave out open periods."""

    def run(self) -> None:
        """Copy, and print what that saves and loses."""
        from nestling.continual.memory import fork

        done = fork(self.file, self.out, self.storage)
        print(
            f"{self.out}: {done.after:,} bytes of {done.before:,} "
            f"({100 * done.after / done.before:.1f} %), lost {100 * done.error:.3g} % of what moved"
        )


@dataclass(frozen=True, kw_only=True)
class Merge:
    """Add up what several memory files of one base model have learned."""

    files: tyro.conf.Positional[tuple[Path, ...]]
    """Memory files."""
    out: Path
    """New file."""
    weights: str | None = None
    """A weight for each file, such as 0.5,0.5; 1 each by default."""

    def run(self) -> None:
        """Write the sum."""
        from nestling.continual.file import read_memory, write_memory
        from nestling.continual.memory import merge
        from nestling.core.error import UserError
        from nestling.data.lock import locked

        try:
            weights = [float(part) for part in self.weights.split(",")] if self.weights else None
        except ValueError as error:
            raise UserError(
                f"weights {self.weights!r} are not numbers; write for example 0.5,0.5"
            ) from error
        if len(self.files) < 2:
            raise UserError("merge needs at least two memory files")
        with locked(self.out, "nestling memory merge"):
            there = self.out.exists()
            if there and not any(file.exists() and self.out.samefile(file) for file in self.files):
                raise UserError(f"{self.out} already exists; choose another name")
            merged = merge([read_memory(file) for file in self.files], weights)
            write_memory(self.out, merged)
        print(f"{self.out}: {len(merged.about['documents'])} documents")


@dataclass(frozen=True, kw_only=True)
class Reset:
    """Reset a level of a memory file, or all of it, to the base model."""

    file: tyro.conf.Positional[Path]
    """Memory file; it is rewritten."""
    level: int | None = None
    """Number of the level, 0 the slowest; by default everything."""

    def run(self) -> None:
        """Rewrite the file."""
        from nestling.continual.file import read_memory, write_memory
        from nestling.continual.memory import reset
        from nestling.data.lock import locked

        with locked(self.file, "nestling memory reset"):
            write_memory(self.file, reset(read_memory(self.file), self.level))
        print(f"{self.file}: {'everything' if self.level is None else f'level {self.level}'} reset")


@dataclass(frozen=True, kw_only=True)
class Export:
    """Apply a memory file to its model, and save the result for transformers."""

    file: tyro.conf.Positional[Path]
    """Memory file."""
    model: tyro.conf.Positional[str]
    """The model it was learned with."""
    out: Path
    """Folder for the new model."""
    document: str | None = None
    """Name, number or checksum of the studied document to apply, if there are several."""

    def run(self) -> None:
        """Write the folder."""
        from nestling.continual.opening import open_learner
        from nestling.continual.study.record import find_studied
        from nestling.core.error import UserError
        from nestling.models.pretrained import save_with

        learner = open_learner(self.model, self.file, must_exist=True)
        studied = learner.state.studied
        weights = learner.weights()
        if self.document is not None:
            weights = learner.weights_of(studied[find_studied(studied, self.document)])
        elif len(studied) > 1 and any(one.alone for one in studied):
            names = ", ".join(one.label for one in studied)
            raise UserError(
                f"{len(studied)} documents were studied, each to be used by itself, and one model "
                f"cannot hold them all; choose one with --document ({names}), or use the memory "
                "with `nestling ask` or `nestling serve`"
            )
        save_with(learner.base, weights, self.out)
        wide = learner.base.variant == "independent"
        told = f", its MLPs {len(learner.base.levels)} times as wide" if wide else ""
        what = self.file if self.document is None else f"{self.document} of {self.file}"
        print(f"{self.out}: the base and {what} in one model{told}")


@dataclass(frozen=True, kw_only=True)
class Consolidate:
    """Move what the fast levels have learned into a slower one, offline, and reset them."""

    file: tyro.conf.Positional[Path]
    """Memory file."""
    model: tyro.conf.Positional[str]
    """The model it was learned with."""
    out: Path
    """New memory file."""
    texts: tuple[str, ...] = ()
    """Texts to replay, given as for `nestling learn`; without any, the model replays text that it
    generates."""
    into: int = 0
    """Number of the level that learns, 0 the slowest."""
    budget: int = 20_000
    """Tokens to replay, in total."""
    keep: float = 0.5
    """Fraction of the replay that keeps the model close to what it was before."""
    lr: float = 1e-4
    """Learning rate."""
    seed: int = 0
    """Seed of the replay."""
    device: str = "cpu"
    """Torch device, such as cpu or cuda."""

    def run(self) -> None:
        """Distil, write the new file and print the KL divergences."""
        from nestling.continual.consolidate import Plan, consolidate
        from nestling.continual.opening import open_learner, read_documents
        from nestling.data.lock import locked

        plan = Plan(into=self.into, budget=self.budget, keep=self.keep, lr=self.lr, seed=self.seed)
        texts = [text for _, text in read_documents(self.texts)]
        with locked(self.out, "nestling memory consolidate"):
            learner = open_learner(self.model, self.file, device=self.device, must_exist=True)
            learner.seen.check(self.out)  # now, not after minutes of work
            done = consolidate(learner, plan, texts)
            learner.save(self.out)
        print(
            f"{done.writes} writes, {done.tokens:,} tokens; KL from what was learned "
            f"{done.learned_before:.4g} -> {done.learned_after:.4g}, from what was known before "
            f"0 -> {done.kept_after:.4g} nats a token; in {self.out}"
        )


Command = (
    Annotated[Show, tyro.conf.subcommand("show")]
    | Annotated[Forget, tyro.conf.subcommand("forget")]
    | Annotated[Undo, tyro.conf.subcommand("undo")]
    | Annotated[Diff, tyro.conf.subcommand("diff")]
    | Annotated[Fork, tyro.conf.subcommand("fork")]
    | Annotated[Merge, tyro.conf.subcommand("merge")]
    | Annotated[Reset, tyro.conf.subcommand("reset")]
    | Annotated[Export, tyro.conf.subcommand("export")]
    | Annotated[Consolidate, tyro.conf.subcommand("consolidate")]
    | Annotated[Push, tyro.conf.subcommand("push")]
    | Annotated[Pull, tyro.conf.subcommand("pull")]
)
