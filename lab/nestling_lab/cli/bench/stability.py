"""nestling bench stability: do rounding errors grow along a text?"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from nestling.core.error import UserError


@dataclass(frozen=True, kw_only=True)
class Stability:
    """Read a text in calls of two sizes, and compare the predictions."""

    models: tyro.conf.Positional[tuple[str, ...]] = ("hope-tiny",)
    """Presets (they read random tokens) or folders with trained models (they read a corpus)."""
    lengths: tuple[int, ...] = (1024, 2048, 4096, 8192, 16384)
    """Positions at which to compare the predictions, in tokens."""
    piece: int = 100
    """Tokens per smaller call."""
    exponent_tokens: int = 2048
    """Tokens for the estimate of the Lyapunov exponent, in float64; 0: none."""
    corpus: str = "stdlib"
    """Corpus for trained models; they read its held-out documents end to end."""
    set: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Option of the presets, NAME=VALUE; may be repeated."""
    json: Path | None = None
    """Write the figures to this file, as a Result."""

    def run(self) -> None:
        """Measure, print one row per model, and write the Result to --json."""
        from nestling.core.result import Result, provenance

        if not self.lengths or min(self.lengths) < 2 or self.piece < 1:
            raise UserError("give --lengths of at least 2 tokens, in a --piece of at least 1")
        names = [f"{length:,}" for length in self.lengths]
        print(f"{'relative error of logits at':<28}" + "".join(f"{n:>10}" for n in names), end="")
        print(f"{'exponent':>12}")
        metrics = {}
        for name in self.models:
            found = metrics[name] = self._measured(name)
            row = "".join(f"{error:>10.1e}" for error in found["errors"].values())
            rate = found["exponent"]
            print(f"{name:<28}{row}{'-' if rate is None else f'{rate:.4f}':>12}", flush=True)
        print("exponent: nats per 32 tokens, of two nearby states; below 0 they converge")
        if self.json is not None:
            config = {"models": self.models, "piece": self.piece, "set": self.set}
            Result(
                name="bench stability", config=config, metrics=metrics, provenance=provenance("cpu")
            ).write(self.json)

    def _measured(self, name: str) -> dict[str, Any]:
        from nestling_lab.bench.stability import exponent, split_errors

        model, ids = self._read(name, max(*self.lengths, self.exponent_tokens))
        errors = split_errors(model, ids, self.lengths, piece=self.piece)
        rate = None
        if self.exponent_tokens:
            rate = exponent(model.double(), ids[:, : self.exponent_tokens])
        return {"errors": {str(n): e for n, e in errors.items()}, "exponent": rate}

    def _read(self, name: str, length: int) -> tuple[Any, Any]:
        """The model, and one row of ``length`` tokens."""
        import torch

        from nestling.cli.train import settings
        from nestling.data import load_corpus, load_tokens
        from nestling.models import create
        from nestling.models.folder import load_model
        from nestling_lab.bench.stream import pieces

        if not Path(name).is_dir():
            model = create(name, **settings(self.set))
            generator = torch.Generator().manual_seed(0)
            size = model.config.vocab_size
            return model, torch.randint(size, (1, length), generator=generator)
        model, tokenizer = load_model(Path(name))
        train, held_out = load_tokens(load_corpus(self.corpus), tokenizer)
        return model, next(pieces([held_out, train], length, length))
