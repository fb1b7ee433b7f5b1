"""nestling bench optim: the cost of a step of every optimizer."""

from dataclasses import dataclass

from nestling_lab.cli.bench.measurement import Measurement


@dataclass(frozen=True, kw_only=True)
class Optim(Measurement):
    """Time a step of every optimizer on the shapes of one model, in turns."""

    layers: int = 12
    """Blocks of the model."""
    width: int = 512
    """Width of the hidden state."""
    feed_forward: int = 1376
    """Width of the feed-forward network."""
    rounds: int = 3
    """Timed rounds."""
    steps: int = 16
    """Steps per round."""

    def run(self) -> None:
        """Measure, print a table, and write the Result to --json."""
        from nestling.report import Table
        from nestling_lab.bench.optimizers import optimizers

        self.prepare()
        shape = {"layers": self.layers, "width": self.width, "feed_forward": self.feed_forward}
        turns = {"rounds": self.rounds, "steps": self.steps}
        metrics = optimizers(
            layers=self.layers,
            width=self.width,
            feed_forward=self.feed_forward,
            rounds=self.rounds,
            steps=self.steps,
            device=self.device,
            quiet=self.quiet,
        )
        self.keep("bench optim", shape | turns, metrics)
        rows = [
            (
                name,
                1000 * f["seconds"],
                1000 * f["fastest"],
                1000 * f["slowest"],
                f"{f['over_reference']:.2f} x {f['reference']}",
                "-" if f["limit"] is None else f"{f['limit']:.2f}",
                f["bytes_per_parameter"],
            )
            for name, f in metrics["optimizers"].items()
        ]
        print(Table(columns=COLUMNS, rows=rows).text())


COLUMNS = (
    "optimizer",
    "ms a step",
    "fastest",
    "slowest",
    "over",
    "at most",
    "bytes a weight",
)
