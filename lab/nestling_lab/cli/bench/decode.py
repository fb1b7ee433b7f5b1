"""nestling bench decode: the cost of generating a token."""

from dataclasses import dataclass
from typing import Any

from nestling_lab.cli.bench.measurement import Measurement


@dataclass(frozen=True, kw_only=True)
class Decode(Measurement):
    """Time the generation of single tokens after contexts of several lengths, in turns."""

    presets: str = "hope"
    """all, or comma-separated families or presets; Transformer++ is always included."""
    size: str = "tiny"
    """Size of families given without one."""
    contexts: tuple[int, ...] = (512, 4096)
    """Context lengths of the presets, in tokens."""
    reference_context: int = 4096
    """Context length of Transformer++ and the peers, at which the others are compared."""
    tokens: int = 32
    """Tokens generated per round."""
    rounds: int = 5
    """Timed rounds."""
    compile: bool = False
    """Also time the step with torch.compile; compiling takes minutes."""
    batch: int = 8
    """Requests of different lengths to time in one batch; 0: none."""
    peers: bool = False
    """Also time transformers' Llama."""

    def run(self) -> None:
        """Measure, print, and write the Result where --json says."""
        from nestling.report import Table
        from nestling_lab.bench.decoding import batched, decoding
        from nestling_lab.bench.training_cost import resolve

        self.prepare()
        names = resolve(self.presets, self.size)
        shared: dict[str, Any] = {
            "tokens": self.tokens,
            "rounds": self.rounds,
            "device": self.device,
        }
        metrics = decoding(
            names,
            self.contexts,
            reference_context=self.reference_context,
            others=("llama",) if self.peers else (),
            compiled=self.compile,
            quiet=self.quiet,
            **shared,
        )
        if self.batch:
            metrics["batch"] = {
                name: batched(name, rows=self.batch, quiet=self.quiet, **shared) for name in names
            }
        config = {"presets": names, "contexts": list(self.contexts), **shared}
        self.keep("bench decode", config | {"compile": self.compile}, metrics)
        reference = metrics["reference"]
        rows = [
            (name, context, row["ms_per_token"], row["fastest"], row["slowest"])
            for name, found in metrics["presets"].items()
            for context, row in found["contexts"].items()
        ]
        columns = ("preset", "context", "ms/token", "fastest", "slowest")
        print(Table(columns=columns, rows=rows).text(), end="\n\n")
        for name, found in metrics["presets"].items():
            for other, ratio in found.get("over", {}).items():
                if other != name and name != reference:
                    where = metrics["reference_context"]
                    print(f"{name}: tokens/s over {other} at {where}: {ratio:.3g}")
            for where, ratio in found.get("flat", {}).items():
                print(f"{name}: ms/token at {where}: {ratio:.3g}")
        for name, found in metrics.get("batch", {}).items():
            print(
                f"{name}: {found['rows']} requests at once: {found['tokens_per_second']:,.0f} "
                f"tokens/s, {found['over_one']:.3g} times one alone"
            )
