"""nestling bench kill: whether a training that is killed ends as one that was left alone."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

from nestling.core.error import UserError
from nestling_lab.cli.bench.measurement import Measurement


@dataclass(frozen=True, kw_only=True)
class Kill(Measurement):
    """Kill a small training at random moments, go on each time, and compare the weights."""

    preset: str = "hope-tiny"
    """Model; `nestling list` names them."""
    optimizer: str = "adamw"
    """What trains it."""
    times: int = 20
    """How often it is killed."""
    steps: int = 200
    """Steps of the training; every fifth leaves a checkpoint."""
    ranks: int = 1
    """Processes of it; one of them is killed."""
    shard: str = "none"
    """Processes that hold one model between them, as of `nestling train`."""
    seed: int = 0
    """Of the moments: steps of the training, and how far into what follows."""

    def run(self) -> None:
        """Measure, print the figures, and write the Result where --json says."""
        from nestling_lab.bench.kills import kills

        if self.times < 1 or self.steps < 1 or self.ranks < 1:
            raise UserError("give at least one time, step and rank")
        names = ("preset", "optimizer", "times", "steps", "ranks", "shard", "seed")
        config = {name: getattr(self, name) for name in names}
        with tempfile.TemporaryDirectory() as folder:
            metrics = kills(Path(folder), **config, quiet=self.quiet)
        self.keep("bench kill", config, metrics)
        for name, value in metrics.items():
            print(f"{name:<24} {value}")
