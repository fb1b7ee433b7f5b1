"""nestling list: the names that the command line and Python accept."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from nestling.core.error import UserError, did_you_mean

if TYPE_CHECKING:
    from nestling.core.registry import Registry


@dataclass(frozen=True, kw_only=True)
class Command:
    """List every preset, memory, corpus, task and optimizer, with a line about each."""

    kind: tyro.conf.Positional[str | None] = None
    """presets, memories, corpora, tasks or optimizers; all by default."""

    def run(self) -> None:
        """Print a table for each kind."""
        if self.kind is not None and self.kind not in KINDS:
            raise UserError(f"unknown kind {self.kind!r}: {did_you_mean(self.kind, KINDS)}")
        kept = read_kept()
        tables = [kept.get(kind) or made(kind) for kind in ([self.kind] if self.kind else KINDS)]
        print("\n\n".join(tables))


Rows = list[tuple[str, ...]]
WIDTH, HEADS, READ = 256, 4, 64  # for which the size of a state is shown; READ is in tokens
COLUMNS = {
    "optimizers": ("rate", "what it remembers, how it is written", "objective of that write"),
    "memories": (
        f"numbers in a row's state (width {WIDTH}, {HEADS} heads, {READ} tokens read)",
        "what a token does to it",
        "source",
    ),
    "tasks": ("", "answers", "made of", "source"),
}


def presets() -> Rows:
    """Models, each with its pattern and size."""
    from nestling.models import preset, preset_names

    rows = []
    for name in preset_names():
        values = preset(name)
        rows.append(
            (
                name,
                f"{' + '.join(values['pattern'])}, {values['num_hidden_layers']} layers, "
                f"width {values['hidden_size']}, {values['num_heads']} heads",
            )
        )
    return rows


def describe(registry: "Registry") -> Rows:
    """The entries of a registry, each with the first line of its documentation."""
    return [
        (name, (registry.load(name).__doc__ or "").strip().partition("\n")[0])
        for name in registry.names()
    ]


def memories() -> Rows:
    """Memories, with the size of their state and how a token changes it."""
    import torch

    from nestling.core.memory import map_state
    from nestling.memories import MEMORIES

    def numbers(state: Any) -> int:
        sizes: list[int] = []
        map_state(lambda tensor: sizes.append(tensor.numel()) or tensor, state)
        return sum(sizes)

    rows = []
    for name in MEMORIES.names():
        kind = MEMORIES.load(name)
        memory = kind(kind.Config(), hidden_size=WIDTH, num_heads=HEADS)
        memory.init_weights(torch.Generator().manual_seed(0))
        with torch.no_grad():
            sizes = [numbers(memory(torch.zeros(1, n, WIDTH))[1]) for n in (READ, 2 * READ)]
        growth = (sizes[1] - sizes[0]) / READ
        size = f"{sizes[0]:,}" + (f" + {growth:,.0f} a token" if growth else "")
        rows.append((name, size, kind.update, kind.source))
    return rows


def tasks() -> Rows:
    """Tasks: what is asked, how it is answered, the material, and the source."""
    from nestling.tasks import TASKS

    rows = []
    for name, told in describe(TASKS):
        kind = TASKS.load(name)
        rows.append((name, told, kind.kind, kind.made_of or "-", kind.source))
    return rows


def corpora() -> Rows:
    """Texts to train on."""
    from nestling.data import CORPORA

    return [(name, CORPORA.load(name).summary) for name in CORPORA.names()]


def optimizers() -> Rows:
    """Optimizers, with their default learning rate and what they remember."""
    from nestling.optim.build import default_lr, optimizer_names
    from nestling.optim.levels import records_of

    return [
        (
            name,
            f"{default_lr(name):g}",
            "; ".join(record.rule for record in records) or "nothing beside the weights",
            "; ".join(record.objective for record in records) or "-",
        )
        for name in optimizer_names()
        for records in [records_of(name)[1]]
    ]


def made(kind: str) -> str:
    """The table of a kind, computed from the library; that imports torch and takes seconds."""
    from nestling.report import Table

    return Table(columns=(kind, *COLUMNS.get(kind, ("",))), rows=KINDS[kind]()).text()


def read_kept() -> dict[str, str]:
    """The stored tables; empty if an entry has been added since they were written."""
    record = json.loads(KEPT.read_text(encoding="utf-8"))
    if record["sha256"] != digest():
        return {}
    return {kind: "\n".join(lines) for kind, lines in record["tables"].items()}


def write_kept() -> None:
    """Store the tables, so that `nestling list` need not import what they list."""
    tables = {kind: made(kind).splitlines() for kind in KINDS}
    record = {"sha256": digest(), "tables": tables}
    KEPT.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def digest() -> str:
    """The hash of the files that name the entries."""
    root = KEPT.parents[1]
    return hashlib.sha256(b"".join((root / name).read_bytes() for name in NAMED_IN)).hexdigest()


KEPT = Path(__file__).with_name("listed.json")
NAMED_IN = (
    "models/presets.py", "memories/__init__.py", "data/corpus.py", "tasks/__init__.py",
    "optim/__init__.py", "rules/__init__.py",
)  # fmt: skip
KINDS: dict[str, Callable[[], Rows]] = {
    "presets": presets,
    "memories": memories,
    "corpora": corpora,
    "tasks": tasks,
    "optimizers": optimizers,
}


if __name__ == "__main__":
    write_kept()
