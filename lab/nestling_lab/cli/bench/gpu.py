"""nestling bench gpu: all measurements that need an accelerator."""

import datetime
from dataclasses import dataclass
from pathlib import Path

from nestling_lab.cli.bench.measurement import Measurement


@dataclass(frozen=True, kw_only=True)
class Gpu(Measurement):
    """Run the parity tests, then time kernel, training and decoding, in under 8 minutes."""

    device: str = "cuda"
    """Torch device."""
    part: str | None = None
    """Measure only this part, in this process; default: all, in separate processes, after the
    tests marked gpu."""
    dry: bool = False
    """Use tiny sizes, also on a CPU, to try the script; the figures mean nothing."""
    results: Path = Path("benchmarks/results")
    """Folder for the Result if --json is not given."""

    def run(self) -> None:
        """Measure, print one line per part, and write the Result."""
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
