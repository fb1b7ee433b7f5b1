"""The options that all benchmarks share, and how their figures are kept."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nestling.core.error import UserError


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """A benchmark: sets threads, measures, prints, and writes a Result where --json says."""

    threads: int | None = None
    """Threads of torch; torch's own choice if not given."""
    device: str = "cpu"
    """Torch device, such as cpu or cuda."""
    json: Path | None = None
    """File for the figures, a Result."""
    quiet: bool = False
    """No progress on the terminal."""

    def prepare(self) -> None:
        """Set the number of threads."""
        import torch

        if self.threads is not None:
            if self.threads < 1:
                raise UserError(f"{self.threads} threads; give at least 1")
            torch.set_num_threads(self.threads)

    def keep(self, name: str, config: dict[str, Any], metrics: dict[str, Any]) -> None:
        """Write the Result, if a file was asked for."""
        from nestling.core.result import Result, provenance

        if self.json is not None:
            config = config | {"device": self.device}
            found = provenance(self.device)
            Result(name=name, config=config, metrics=metrics, provenance=found).write(self.json)
