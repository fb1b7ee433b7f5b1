"""nestling bench ops: the forms of the kernel, and single memories against third-party ones."""

from dataclasses import dataclass
from typing import Any

from nestling_lab.cli.bench.measurement import Measurement

TITANS_PERIODS = {"readme": 64, "period 16": 16}  # tokens between two writes of titans-pytorch


@dataclass(frozen=True, kw_only=True)
class Ops(Measurement):
    """Time each form of the kernel, forward and backward, in turns."""

    shape: str = "4x512"
    """ROWSxLENGTH, in tokens."""
    heads: int = 4
    """Heads."""
    width: int = 64
    """Width of keys and values."""
    chunks: tuple[int, ...] = (16, 32, 64, 128)
    """Chunk sizes to time, in tokens."""
    rounds: int = 5
    """Timed rounds."""
    tilings: tuple[str, ...] = ()
    """Shapes ROWSxLENGTHxHEADSxWIDTH at which to compare the chosen chunk size with others."""
    peers: bool = False
    """Also time transformers' gated delta rule and the memory of titans-pytorch."""

    def run(self) -> None:
        """Measure, print the tables, and write the Result to --json."""
        from nestling.report import Table
        from nestling_lab.bench.op_speed import ops, titans
        from nestling_lab.bench.peers import require
        from nestling_lab.bench.tilings import Tokens, tilings
        from nestling_lab.bench.training_cost import Shape

        self.prepare()
        shape = Shape.parse(self.shape)
        shared: dict[str, Any] = {"rounds": self.rounds, "device": self.device, "quiet": self.quiet}
        size: dict[str, Any] = {
            "heads": self.heads,
            "width": self.width,
            "chunks": list(self.chunks),
        }
        if self.peers:
            require("titans_pytorch")
        metrics = ops(batch=shape.rows, length=shape.length, **size, others=self.peers, **shared)
        if self.peers:
            metrics["titans"] = {
                name: titans(period=period, **shared) for name, period in TITANS_PERIODS.items()
            }
        if self.tilings:
            shapes = [Tokens.parse(text) for text in self.tilings]
            metrics["tilings"] = tilings(shapes, rounds=self.rounds, quiet=self.quiet)
        config = {"shape": str(shape), **size, "rounds": self.rounds}
        self.keep("bench ops", config, metrics)
        for label, forms in metrics["kernel"].items():
            rows = [
                (name, row["tokens_per_second"], row["slowest"], row["fastest"], row["over_step"])
                for name, row in forms.items()
            ]
            columns = ("form", "tokens/s", "slowest", "fastest", "over the step")
            print(Table(columns=columns, rows=rows, title=f"kernel, {label}").text(), end="\n\n")
        for name, found in metrics.get("titans", {}).items():
            print(f"titans over titans-pytorch, {name}: {found['over_peer']:.3g}")
        for kind, shapes in metrics.get("tilings", {}).items():
            rows = [
                (name, row["chosen"], row["best"], row["over_best"], by_size(row))
                for name, row in shapes.items()
            ]
            columns = ("shape", "chunk chosen", "fastest", "time over its", "ms by size")
            print(Table(columns=columns, rows=rows, title=f"chunks, {kind}").text(), end="\n\n")


def by_size(row: dict[str, Any]) -> str:
    """The milliseconds of every chunk size, in one cell."""
    return ", ".join(f"{size}: {ms:.3g}" for size, ms in row["milliseconds"].items())
