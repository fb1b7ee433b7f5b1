"""nestling generate: continue a text with a trained model."""

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from nestling.core.error import UserError


@dataclass(frozen=True, kw_only=True)
class Command:
    """Continue a prompt; the model's memory of it can be saved to a file and loaded again."""

    model: Path
    """Folder with a trained model, as `nestling train --out` leaves it."""
    prompt: str = ""
    """Text to continue; empty: start a document."""
    tokens: int = 100
    """Largest number of tokens to generate."""
    temperature: float = 0.8
    """Sampling temperature; 0 always takes the most likely token."""
    top_k: int = 50
    """Sample from this many of the most likely tokens; 0: from all."""
    seed: int = 0
    """Sampling seed."""
    device: str = "cpu"
    """Torch device, such as cpu or cuda."""
    load_memory: Path | None = None
    """Start from the memory in this file."""
    save_memory: Path | None = None
    """Save the model's memory to this file at the end."""

    def run(self) -> None:
        """Print the prompt and its continuation."""
        if self.tokens < 1 or self.temperature < 0 or self.top_k < 0:
            raise UserError(
                f"tokens is {self.tokens}, temperature {self.temperature}, top-k {self.top_k}; "
                "give tokens of at least 1, temperature and top-k of at least 0"
            )

        from nestling.data.lock import locked

        with locked(self.save_memory, "nestling generate") if self.save_memory else nullcontext():
            self._write()

    def _check_target(self) -> None:
        """Raise UserError if saving would overwrite a file that was not loaded."""
        target, source = self.save_memory, self.load_memory
        if target is None or not target.exists():
            return
        if source is None or not source.exists() or not target.samefile(source):
            raise UserError(
                f"{target} already exists; choose another name, or continue it with --load-memory"
            )

    def _write(self) -> None:
        from nestling.models.cache import MemoryCache
        from nestling.models.folder import load_model
        from nestling.train.inference import continue_text

        self._check_target()
        model, tokenizer = load_model(self.model, self.device)
        cache = MemoryCache.load(self.load_memory, model) if self.load_memory else None
        text, cache = continue_text(
            model,
            tokenizer,
            self.prompt,
            tokens=self.tokens,
            temperature=self.temperature,
            top_k=self.top_k,
            cache=cache,
            seed=self.seed,
        )
        print(self.prompt + text)
        if self.save_memory is not None:
            cache.save(self.save_memory)
