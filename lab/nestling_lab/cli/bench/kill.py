"""nestling bench kill: does a killed and resumed training end like an uninterrupted one?"""

import tempfile
from dataclasses import dataclass
from pathlib import Path

from nestling.core.error import UserError
from nestling_lab.cli.bench.measurement import Measurement


@dataclass(frozen=True, kw_only=True)
class Kill(Measurement):
    """Kill a small training at random moments, resume it, and compare the weights."""

    preset: str = "hope-tiny"
    """Model; `nestling list` names them."""
    optimizer: str = "adamw"
    """Optimizer; `nestling list` names them."""
    times: int = 20
    """Number of kills."""
    steps: int = 200
    """Training steps; there is a checkpoint every fifth step."""
    ranks: int = 1
    """Number of processes; one of them is killed."""
    shard: str = "none"
    """Processes that hold one model together, as in `nestling train`."""
    seed: int = 0
    """Seed of the times of the kills."""

    def run(self) -> None:
        """Measure, print the figures, and write the Result where --json says."""
        from nestling_lab.bench.kills import kills

        if self.times < 1 or self.steps < 1 or self.ranks < 1:
            raise UserError(
                f"times is {self.times}, steps {self.steps}, ranks {self.ranks}; give at least 1"
            )
        names = ("preset", "optimizer", "times", "steps", "ranks", "shard", "seed")
        config = {name: getattr(self, name) for name in names}
        with tempfile.TemporaryDirectory() as folder:
            metrics = kills(Path(folder), **config, quiet=self.quiet)
        self.keep("bench kill", config, metrics)
        for name, value in metrics.items():
            print(f"{name:<24} {value}")
