"""nestling bench serve: a server under load, and killed under load."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

from nestling.core.error import UserError
from nestling_lab.cli.bench.measurement import Measurement


@dataclass(frozen=True, kw_only=True)
class Serve(Measurement):
    """Stream answers to many clients at once while documents are learned: latency and memory."""

    model: str = ""
    """Folder to serve; by default a tiny random model."""
    clients: int = 64
    """Clients, each with one answer at a time."""
    seconds: float = 300.0
    """How long they ask."""
    tokens: int = 64
    """Most tokens of an answer."""
    memories: int = 3
    """Memories that they share; one share of the clients asks the model without any."""
    learning: bool = True
    """Have documents learned meanwhile."""
    kills: int = 0
    """How often the server is killed (SIGKILL) and started again."""
    seed: int = 0
    """Of the moments."""

    def run(self) -> None:
        """Measure, print the figures, and write the Result where --json says."""
        from nestling_lab.bench.load import load

        if min(self.clients, self.tokens) < 1 or self.seconds <= 0 or self.memories < 0:
            raise UserError("give at least one client and token, and a time above 0")
        names = ("model", "clients", "seconds", "tokens", "memories", "learning", "kills", "seed")
        config = {name: getattr(self, name) for name in names}
        with tempfile.TemporaryDirectory() as folder:
            metrics = load(Path(folder), **config, quiet=self.quiet)
        self.keep("bench serve", config, metrics)
        for name, value in metrics.items():
            print(f"{name:<28} {_short(value)}")


def _short(value: object) -> str:
    """A figure as it is printed."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return " ".join(f"{one:.0f}" for one in value)
    if isinstance(value, dict):
        return ", ".join(f"{name} {_short(one)}" for name, one in value.items())
    return str(value)
