"""nestling bench serve: put a server under load, and kill it under load."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

from nestling.core.error import UserError
from nestling_lab.cli.bench.measurement import Measurement


@dataclass(frozen=True, kw_only=True)
class Serve(Measurement):
    """Measure latency and memory of a server that streams to many clients while it learns."""

    model: str = ""
    """Model folder to serve; default: a tiny random model."""
    clients: int = 64
    """Number of clients, each with one request at a time."""
    seconds: float = 300.0
    """Duration of the load, in seconds."""
    tokens: int = 64
    """Tokens per answer, at most."""
    memories: int = 3
    """Number of memories shared by the clients; some clients use the model without any."""
    learning: bool = True
    """Also have documents learned meanwhile."""
    kills: int = 0
    """Number of times the server is killed (SIGKILL) and restarted."""
    seed: int = 0
    """Seed of the times of the kills."""

    def run(self) -> None:
        """Measure, print the figures, and write the Result to --json."""
        from nestling_lab.bench.load import load

        if min(self.clients, self.tokens) < 1 or self.seconds <= 0 or self.memories < 0:
            raise UserError(
                f"clients is {self.clients}, tokens {self.tokens}, seconds {self.seconds:g}; give "
                "at least 1 client and token, and a time above 0"
            )
        names = ("model", "clients", "seconds", "tokens", "memories", "learning", "kills", "seed")
        config = {name: getattr(self, name) for name in names}
        with tempfile.TemporaryDirectory() as folder:
            metrics = load(Path(folder), **config, quiet=self.quiet)
        self.keep("bench serve", config, metrics)
        for name, value in metrics.items():
            print(f"{name:<28} {_short(value)}")


def _short(value: object) -> str:
    """Format a figure for printing."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return " ".join(f"{one:.0f}" for one in value)
    if isinstance(value, dict):
        return ", ".join(f"{name} {_short(one)}" for name, one in value.items())
    return str(value)
