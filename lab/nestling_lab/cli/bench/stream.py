"""nestling bench stream: read a long text with a trained model."""

from dataclasses import dataclass
from pathlib import Path

from nestling.core.error import UserError


@dataclass(frozen=True, kw_only=True)
class Stream:
    """Read a long text with a trained model, and check that nothing breaks or grows."""

    model: Path
    """Folder with a trained model, written by `nestling train --out`."""
    tokens: int = 100_000
    """Tokens to read."""
    chunk: int = 512
    """Tokens per call."""
    corpus: str = "stdlib"
    """Corpus to read: first its held-out documents, then those of training, repeated."""
    device: str = "cpu"
    """Torch device, such as cpu or cuda."""
    json: Path | None = None
    """Write the figures to this file, as a Result."""
    quiet: bool = False
    """Show no progress."""

    def run(self) -> None:
        """Measure, print the figures, and write the Result to --json."""
        from nestling.core.result import Result, provenance
        from nestling.data import load_corpus, load_tokens
        from nestling.models.folder import load_model
        from nestling_lab.bench import stream

        if self.tokens < 2 or self.chunk < 1:
            raise UserError("give at least 2 --tokens, in a --chunk of at least 1")
        model, tokenizer = load_model(self.model, self.device)
        corpus = load_corpus(self.corpus)
        train, held_out = load_tokens(corpus, tokenizer)
        metrics = stream(
            model, [held_out, train], tokens=self.tokens, chunk=self.chunk, quiet=self.quiet
        )
        if self.json is not None:
            Result(
                name="bench stream",
                config={"model": str(self.model), "tokens": self.tokens, "chunk": self.chunk}
                | {"architecture": model.config.to_dict()},
                metrics=metrics,
                corpus=corpus.tag,
                provenance=provenance(self.device),
            ).write(self.json)
        for name in ("non_finite", "max_state_norm", "rss_growth_mib", "tokens_per_second", "loss"):
            print(f"{name:<18} {metrics[name]:,.6g}")
