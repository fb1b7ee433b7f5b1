"""nestling bench gpu: all that an accelerator is needed for."""

import datetime
from dataclasses import dataclass
from pathlib import Path

from nestling_lab.cli.bench.measurement import Measurement


@dataclass(frozen=True, kw_only=True)
class Gpu(Measurement):
    """Parity tests, then the kernel, training and decoding, in under 8 minutes."""

    device: str = "cuda"
    """Torch device."""
    part: str | None = None
    """One part alone, in this process; else all, each in its own, after the tests marked gpu."""
    dry: bool = False
    """Tiny sizes, which a CPU computes too: tries the script, measures nothing."""
    results: Path = Path("benchmarks/results")
    """Folder for the Result, if no file is given with --json."""

    def run(self) -> None:
        """Measure, print a line a part, and write the Result."""
        from dataclasses import replace

        from nestling_lab.bench.gpu import measure, run_part

        self.prepare()
        if self.part is None:
            found = measure(self.device, self.dry, quiet=self.quiet)
        else:
            found = {self.part: run_part(self.part, self.device, self.dry)}
        kept = self
        if self.json is None and not self.dry and self.part is None:
            today = datetime.date.today().isoformat()
            kept = replace(self, json=self.results / f"gpu_{today}.json")
        name = "bench gpu, dry" if self.dry else "bench gpu"
        kept.keep(name, {"dry": self.dry, "part": self.part}, found)
        for name, figures in found.items():
            ratio, reason = figures.get("ratio"), figures.get("reason", "")
            print(f"{name:<18} {reason if ratio is None else format(ratio, '.3g')}")
