"""nestling ask: answer with what a model has learned, its context empty."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro


@dataclass(frozen=True, kw_only=True)
class Command:
    """Go on after a prompt with the model and its memory file; nothing is learned from it."""

    model: tyro.conf.Positional[str]
    """The model the memory was learned with."""
    prompt: tyro.conf.Positional[str]
    """Text to go on with."""
    memory: Path | None = None
    """Memory file; without one the base model answers."""
    chat: bool = False
    """Put the prompt as a message in the chat template of the model's tokenizer."""
    tokens: int = 100
    """Tokens to write, at most."""
    temperature: float = 0.0
    """Spread of the draw; 0 always takes the most likely token."""
    top_k: int = 50
    """Draw among this many of the most likely tokens; 0: among all."""
    seed: int = 0
    """Seed of the draw."""
    levels: str | None = None
    """Levels the memory was learned with, if the model's folder does not name them."""
    gate: Literal["levels", "base"] | None = None
    """Mix the base, and with levels the slower levels alone, in by what the text so far favours:
    what was learned then costs little where it does not help, and answering as many readings."""
    device: str = "cpu"
    """Torch device, such as cpu or cuda."""

    def run(self) -> None:
        """Print the answer."""
        from nestling.continual.opening import open_learner
        from nestling.core.error import UserError

        if self.tokens < 1 or self.temperature < 0 or self.top_k < 0:
            raise UserError("tokens must be at least 1, temperature and top-k at least 0")
        learner = open_learner(
            self.model, self.memory, levels=self.levels, device=self.device, must_exist=True
        )
        learner.gate = self.gate
        answer = learner.generate(
            self.prompt,
            tokens=self.tokens,
            temperature=self.temperature,
            top_k=self.top_k,
            seed=self.seed,
            chat=self.chat,
        )
        print(answer if self.chat else self.prompt + answer)
