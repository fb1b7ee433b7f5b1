"""nestling demo: Hope and a Transformer on real text, and a page about both."""

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from nestling.core.error import UserError


@dataclass(frozen=True, kw_only=True)
class Command:
    """Train Hope, Hope with writes off and a Transformer of its size, and write a report."""

    out: Path = Path("demo")
    """Folder for the report, its figures, the trained Hope and its saved memory."""
    steps: int | None = None
    """Optimizer steps of each model; by default as many as fit in minutes on two cores."""
    corpus: str = "stdlib"
    """Text to train on; `nestling data list` names them."""
    seed: int = 0
    """Seed of the weights and of the order of the text."""
    vocab_size: int = 4096
    """Tokens of the vocabulary, at most."""
    set: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """NAME=VALUE: a setting of the runs (batch_size=4) or of all the models (hidden_size=64); may
    be repeated."""
    device: str = "cpu"
    """Torch device, such as cpu or cuda."""
    json: Path | None = None
    """File for the figures, a Result; by default beside the report."""
    quiet: bool = False
    """No progress on the terminal."""

    def run(self) -> None:
        """Run the demonstration and say where the report is."""
        from nestling.cli.train import settings
        from nestling.demo import make_demo, run_demo

        values = settings(self.set)
        for name in ("steps", "seed"):
            if name in values:
                raise UserError(f"give {name} as --{name}, not with --set")
        values["seed"] = self.seed
        if self.steps is not None:
            values["steps"] = self.steps
        demo = make_demo(values, corpus=self.corpus, vocab_size=self.vocab_size, device=self.device)
        # flushed, so that it stays in order with the progress on the other stream
        tell = functools.partial(print, flush=True)
        run_demo(demo, self.out, tell=tell, quiet=self.quiet, json=self.json)
