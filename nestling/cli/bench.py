"""nestling bench: a trained model as it is used, and what training costs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from nestling.core.error import UserError


@dataclass(frozen=True, kw_only=True)
class Stream:
    """Read a long text with a trained model; nothing may break, and nothing may grow."""

    model: Path
    """Folder with a trained model, as `nestling train --out` leaves it."""
    tokens: int = 100_000
    """Tokens to read."""
    chunk: int = 512
    """Tokens a call."""
    corpus: str = "stdlib"
    """Text to read: the held-out documents first, then those of training, from the start again."""
    device: str = "cpu"
    """Torch device, such as cpu or cuda."""
    json: Path | None = None
    """File for the figures, a Result."""
    quiet: bool = False
    """No progress on the terminal."""

    def run(self) -> None:
        """Measure, print the figures, and write the Result where --json says."""
        from nestling.bench import stream
        from nestling.core.result import Result, provenance
        from nestling.data import load_corpus, load_tokens
        from nestling.models.folder import load_model

        if self.tokens < 2 or self.chunk < 1:
            raise UserError("give at least 2 --tokens, in a --chunk of at least 1")
        model, tokenizer = load_model(self.model, self.device)
        corpus = load_corpus(self.corpus)
        train, held_out = load_tokens(corpus, tokenizer)
        metrics = stream(
            model, [held_out, train], tokens=self.tokens, chunk=self.chunk, quiet=self.quiet
        )
        if self.json is not None:
            Result(
                name="bench stream",
                config={"model": str(self.model), "tokens": self.tokens, "chunk": self.chunk}
                | {"architecture": model.config.to_dict()},
                metrics=metrics,
                corpus=corpus.tag,
                provenance=provenance(self.device),
            ).write(self.json)
        for name in ("non_finite", "max_state_norm", "rss_growth_mib", "tokens_per_second", "loss"):
            print(f"{name:<18} {metrics[name]:,.6g}")


@dataclass(frozen=True, kw_only=True)
class Train:
    """Time a training step of many presets, taking turns in one run."""

    presets: str = "all"
    """all, or names of families or presets with commas between; Transformer++ is always there."""
    size: str = "tiny"
    """Size of the families that are named without one."""
    batch: int = 4
    """Rows."""
    length: int = 256
    """Tokens of each row."""
    rounds: int = 5
    """Steps of each preset that are timed."""
    threads: int | None = None
    """Threads of torch; torch's own choice if not given."""
    device: str = "cpu"
    """Torch device, such as cpu or cuda."""
    json: Path | None = None
    """File for the figures, a Result."""
    quiet: bool = False
    """No progress on the terminal."""

    def run(self) -> None:
        """Measure, print a table, and write the Result where --json says."""
        import torch

        from nestling.bench import resolve, training
        from nestling.core.result import Result, provenance
        from nestling.report import Table

        if self.threads is not None:
            if self.threads < 1:
                raise UserError(f"{self.threads} threads; give at least 1")
            torch.set_num_threads(self.threads)
        names = resolve(self.presets, self.size)
        shape = {"batch_size": self.batch, "length": self.length, "rounds": self.rounds}
        metrics = training(names, **shape, device=self.device, quiet=self.quiet)
        if self.json is not None:
            config = {"presets": names, **shape}
            record = Result(
                name="bench train",
                config=config,
                metrics=metrics,
                provenance=provenance(self.device),
            )
            record.write(self.json)
        print(Table(columns=tuple(TRAIN_COLUMNS), rows=rows_of(metrics)).text())


TRAIN_COLUMNS = {
    "preset": None,
    "tokens/s": "tokens_per_second",
    "slowest": "slowest",
    "fastest": "fastest",
    "over the first": "over_reference",
    "peak MiB": "peak_mib",
    "parameters": "num_parameters",
    "non-embedding": "num_non_embedding",
    "state bytes": "state_bytes",
}


def rows_of(metrics: dict[str, Any]) -> list[tuple[Any, ...]]:
    """The rows of the table of `bench train`."""
    return [
        (name, *(figures[key] for key in TRAIN_COLUMNS.values() if key))
        for name, figures in metrics["presets"].items()
    ]


Command = (
    Annotated[Stream, tyro.conf.subcommand("stream")]
    | Annotated[Train, tyro.conf.subcommand("train")]
)
