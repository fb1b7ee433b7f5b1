"""nestling bench memory: the memory of a training step."""

from dataclasses import dataclass
from typing import Any

from nestling_lab.cli.bench.measurement import Measurement

COLUMNS = {
    "peak MiB": "peak_mib",
    "over the first": "over_reference",
    "bytes a token": "bytes_per_token",
    "over the first ": "tokens_over_reference",
    "state bytes": "state_bytes",
    "parameters": "num_parameters",
}


@dataclass(frozen=True, kw_only=True)
class Memory(Measurement):
    """Measure the peak memory of a training step, without weights and optimizer state."""

    presets: str = "all"
    """all, or comma-separated families or presets; Transformer++ is always included."""
    size: str = "tiny"
    """Size of families given without one."""
    shape: str = "4x512"
    """ROWSxLENGTH, in tokens."""
    documents: tuple[int, ...] = ()
    """Lengths of documents to train on in segments, in tokens."""
    segment: int = 512
    """Tokens per segment of these documents."""

    def run(self) -> None:
        """Measure, print a table, and write the Result to --json."""
        from nestling.report import Table
        from nestling_lab.bench.document_cost import documents
        from nestling_lab.bench.memory_cost import memory
        from nestling_lab.bench.training_cost import Shape, resolve

        self.prepare()
        names, shape = resolve(self.presets, self.size), Shape.parse(self.shape)
        metrics = memory(names, shape, device=self.device, quiet=self.quiet)
        config: dict[str, Any] = {"presets": names, "shape": str(shape)}
        if self.documents:
            config |= {"documents": list(self.documents), "segment": self.segment}
            metrics["documents"] = documents(
                names, self.documents, segment=self.segment, device=self.device, quiet=self.quiet
            )
        self.keep("bench memory", config, metrics)
        rows = [
            (name, *(row[key] for key in COLUMNS.values()))
            for name, row in metrics["presets"].items()
        ]
        print(Table(columns=("preset", *COLUMNS), rows=rows).text())
        for name, found in metrics.get("documents", {}).items():
            for length, row in found.items():
                print(
                    f"{name}: a document of {length} tokens by segments of {self.segment}: "
                    f"{row['peak_mib']:,.1f} MiB, {row['over_shortest']:.3f} of the shortest's"
                )
