"""nestling train: train a language model and save it in a folder."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from nestling.core.error import UserError

INTERRUPTED = 130  # what a shell reports after Ctrl-C


def settings(pairs: tuple[str, ...]) -> dict[str, Any]:
    """Read NAME=VALUE pairs, values as JSON if possible, otherwise as text.

    >>> settings(("writes=false", "period=64", "schedule=wsd", "periods=[512,2048]"))
    {'writes': False, 'period': 64, 'schedule': 'wsd', 'periods': [512, 2048]}
    """
    import json

    values: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not name or not equals:
            raise UserError(f"cannot read --set {pair!r}; write it as NAME=VALUE")
        try:
            values[name] = json.loads(text)
        except ValueError:
            values[name] = {"True": True, "False": False, "None": None}.get(text, text)
    return values


@dataclass(frozen=True, kw_only=True)
class Command:
    """Train a preset on a corpus. Ctrl-C saves, --resume continues; works under torchrun."""

    preset: str = "hope-tiny"
    """Model to train; see `nestling list presets`."""
    corpus: str = "stdlib"
    """Text to train on: a name of `nestling data list`, a file or folder of text, Markdown, HTML,
    JSONL or Parquet (FILE#FIELD: the field of its records, otherwise "text"), or a folder of
    tokens that `nestling data prepare` has written."""
    steps: int = 1000
    """Optimizer steps in total."""
    seed: int = 0
    """Seed of the weights and of the order of documents."""
    out: Path
    """Folder for the model, the tokenizer, the checkpoints and the log."""
    json: Path | None = None
    """File for the results, as JSON."""
    resume: bool = False
    """Continue from the last checkpoint in the folder."""
    set: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """NAME=VALUE: a setting of the run (batch_size=4) or of the model (writes=false); may be
    repeated."""
    tokenizer: str | None = None
    """How text becomes tokens: "bpe" (the default; trained on the corpus), "bpe-digits" or "bytes".
    A folder of tokens has its own."""
    vocab_size: int | None = None
    """Largest vocabulary size; 4096 by default."""
    optimizer: str = "adamw"
    """Optimizer; see `nestling list optimizers` for names and default learning rates."""
    device: str = "cpu"
    """Torch device, such as cpu or cuda."""
    shard: str = "none"
    """Which processes share one copy of the model: none (each has its own), full (all of them),
    hybrid (those of one machine), or a number."""
    divide: Literal["rows", "sequence"] = "rows"
    """What the processes split: the rows of a batch, or the tokens of each row."""
    track: Literal["none", "tensorboard", "trackio"] = "none"
    """Also log to TensorBoard (in OUT/tensorboard) or trackio."""
    quiet: bool = False
    """Show no progress."""

    def run(self) -> None:
        """Train, print the results, and write them where --json says."""
        from nestling.data.lock import locked
        from nestling.train.job import make_job, run_job
        from nestling.train.ranks import joined

        chosen = settings(self.set)
        for name in ("steps", "seed"):
            if name in chosen:
                raise UserError(f"give {name} as --{name}, not with --set")
        job = make_job(
            chosen | {"steps": self.steps, "seed": self.seed},
            preset=self.preset,
            corpus=self.corpus,
            tokenizer=self.tokenizer,
            vocab_size=self.vocab_size,
            device=self.device,
            optimizer=self.optimizer,
        )
        alone = locked(self.out, "nestling train")
        with joined(self.device, self.shard, self.divide) as ranks, ranks.first_alone(alone):
            _, result = run_job(
                job,
                self.out,
                resume=self.resume,
                quiet=self.quiet,
                ranks=ranks,
                track=self.track,
            )
        if not ranks.first:
            return
        if result.metrics["interrupted"]:
            print(f"interrupted; saved in {self.out}, go on with --resume", file=sys.stderr)
            raise SystemExit(0 if "terminated" in result.metrics else INTERRUPTED)
        if self.json is not None:
            result.write(self.json)
        for name in REPORTED:
            print(f"{name:<18} {figure(result.metrics[name])}")
        print(f'try: nestling generate --model {self.out} --prompt "def "')


REPORTED = ("first_loss", "val_loss", "val_perplexity", "tokens_per_second", "num_parameters")


def figure(value: float | int) -> str:
    """A number, formatted for people.

    >>> figure(1234567), figure(8.30489)
    ('1,234,567', '8.305')
    """
    return f"{value:,}" if isinstance(value, int) else f"{value:,.3f}"
