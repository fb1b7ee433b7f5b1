"""The options shared by all benchmarks, and the writing of their Results."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nestling.core.error import UserError


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """A benchmark: sets the threads, measures, prints, and writes a Result to --json."""

    threads: int | None = None
    """Threads of torch; default: torch's own choice."""
    device: str = "cpu"
    """Torch device, such as cpu or cuda."""
    json: Path | None = None
    """Write the figures to this file, as a Result."""
    quiet: bool = False
    """Show no progress."""

    def prepare(self) -> None:
        """Set the number of threads."""
        import torch

        if self.threads is not None:
            if self.threads < 1:
                raise UserError(f"threads is {self.threads}; give at least 1")
            torch.set_num_threads(self.threads)

    def keep(self, name: str, config: dict[str, Any], metrics: dict[str, Any]) -> None:
        """Write the Result, if --json is given."""
        from nestling.core.result import Result, provenance

        if self.json is not None:
            config = config | {"device": self.device}
            found = provenance(self.device)
            Result(name=name, config=config, metrics=metrics, provenance=found).write(self.json)
