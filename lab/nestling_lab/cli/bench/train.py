"""nestling bench train: the cost of a training step."""

from dataclasses import dataclass
from typing import Any

from nestling_lab.cli.bench.measurement import Measurement

COLUMNS = {
    "preset": None,
    "tokens/s": "tokens_per_second",
    "slowest": "slowest",
    "fastest": "fastest",
    "over the first": "over_reference",
    "peak MiB": "peak_mib",
    "parameters": "num_parameters",
    "non-embedding": "num_non_embedding",
    "state bytes": "state_bytes",
}


@dataclass(frozen=True, kw_only=True)
class Train(Measurement):
    """Time a training step of many presets, in turns."""

    presets: str = "all"
    """all, or comma-separated families or presets; Transformer++ is always included."""
    size: str = "tiny"
    """Size of families given without one."""
    shapes: tuple[str, ...] = ("4x256",)
    """Shapes to measure at, ROWSxLENGTH in tokens."""
    heads: tuple[str, ...] = ()
    """Also time each preset with these heads as a level: PERIOD or PERIOD:SLOTS, like 32:1024."""
    vocab_size: int = 4096
    """Tokens of the vocabulary."""
    peers: str | None = None
    """all, or comma-separated third-party models: llama, mamba2, qwen3-next, titans-mac."""
    rounds: int = 5
    """Timed steps of each preset."""
    peak: bool = True
    """Also measure the memory of a step, which takes one more step."""

    def run(self) -> None:
        """Measure, print one table per shape, and write the Result to --json."""
        from nestling.report import Table
        from nestling_lab.bench.training_cost import Head, Shape, resolve, training

        self.prepare()
        names = resolve(self.presets, self.size)
        others = peer_names(self.peers)
        shapes = [Shape.parse(text) for text in dict.fromkeys(self.shapes)]
        metrics = training(
            names,
            shapes,
            heads=[Head.parse(text) for text in self.heads],
            vocab_size=self.vocab_size,
            others=others,
            rounds=self.rounds,
            device=self.device,
            peak=self.peak,
            quiet=self.quiet,
        )
        config = {
            "presets": names,
            "heads": list(self.heads),
            "vocab_size": self.vocab_size,
            "peers": others,
            "shapes": list(map(str, shapes)),
            "rounds": self.rounds,
        }
        self.keep("bench train", config, metrics)
        for shape, found in metrics["shapes"].items():
            table = Table(columns=tuple(COLUMNS), rows=rows_of(found["presets"]), title=shape)
            print(table.text(), end="\n\n")
            for name, ratio in found["over_peer"].items():
                print(f"ours over {name}: {ratio:.3g}")
        for name, ratios in metrics["time_per_token"].items():
            for where, ratio in ratios.items():
                print(f"{name}: time per token at {where}: {ratio:.3g}")


def peer_names(text: str | None) -> list[str]:
    """The requested peers. Raises UserError at once if a package is missing."""
    from nestling_lab.bench.peers import PEERS, find

    if text is None:
        return []
    names = list(PEERS) if text == "all" else [name.strip() for name in text.split(",")]
    for name in names:
        find(name)
    return names


def rows_of(presets: dict[str, Any]) -> list[tuple[Any, ...]]:
    """The rows of the table of one shape."""
    return [
        (name, *(figures[key] for key in COLUMNS.values() if key))
        for name, figures in presets.items()
    ]
