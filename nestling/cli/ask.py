"""nestling ask: answer with what a model has learned, its context empty."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro


@dataclass(frozen=True, kw_only=True)
class Command:
    """Answer a question with a model and its memory file, without learning from it."""

    model: tyro.conf.Positional[str]
    """The model the memory file was learned with."""
    prompt: tyro.conf.Positional[str | None] = None
    """A question, or text to continue. Without one, a conversation: one question per line; /read
    FILE studies a text, /undo forgets the last one, /quit ends."""
    memory: Path | None = None
    """Memory file; without one, the base model answers."""
    chat: bool = False
    """Use the chat template of the model's tokenizer, and fail if it has none; by default it is
    used if there is one."""
    go_on: bool = False
    """Continue the prompt as plain text."""
    check: bool = True
    """Recite what was studied and give the sentence that fits the question. If none fits, answer as
    before study or, about the subject of a document, say so. Off: give the most likely reply, in a
    fraction of the time. Needs a chat template, temperature 0 and no gate."""
    tokens: int = 100
    """Largest number of tokens to generate."""
    temperature: float = 0.0
    """Sampling temperature; 0 always takes the most likely token."""
    top_k: int = 50
    """Sample from this many of the most likely tokens; 0: from all."""
    seed: int = 0
    """Sampling seed."""
    levels: str | None = None
    """Levels that the memory file was learned with, if the model's folder does not name them."""
    gate: Literal["levels", "base"] | None = None
    """Mix in the base model (and, with levels, the slower levels alone), weighted by how well each
    has predicted the text so far: memory then costs little where it does not help. Each model in
    the mixture runs once."""
    device: str = "cpu"
    """Torch device, such as cpu or cuda."""

    def run(self) -> None:
        """Print the answer, or hold a conversation."""
        from nestling.continual.opening import open_learner
        from nestling.core.error import UserError

        if self.tokens < 1 or self.temperature < 0 or self.top_k < 0:
            raise UserError(
                f"tokens is {self.tokens}, temperature {self.temperature}, top-k {self.top_k}; "
                "give tokens of at least 1, temperature and top-k of at least 0"
            )
        for name in ("levels", "gate"):
            if self.memory is None and getattr(self, name) is not None:
                raise UserError(
                    f"--{name} has no effect without --memory; give a file, or leave it out"
                )
        learner = open_learner(
            self.model, self.memory, levels=self.levels, device=self.device, must_exist=True
        )
        learner.gate = self.gate
        if self.prompt is None:
            self._converse(learner)
        else:
            print(self._answer(learner, self.prompt))

    def _answer(self, learner: Any, prompt: str) -> str:
        """The model's answer to a prompt."""
        from nestling.continual.study.form import END, PLAIN
        from nestling.core.error import UserError

        if self.chat and self.go_on:
            raise UserError("--chat and --go-on cannot be combined; choose one")
        chat = self.chat or (not self.go_on and learner.talks)
        if chat and self.temperature == 0 and self.check and learner.recites:
            return self._sourced(learner, prompt)
        if chat and self.temperature == 0:
            return learner.ask(prompt, tokens=self.tokens, chat=True, check=self.check)
        asks = not chat and not self.go_on and bool(learner.state.studied)
        answer = learner.generate(
            PLAIN.format(question=prompt) if asks else prompt,
            tokens=self.tokens,
            temperature=self.temperature,
            top_k=self.top_k,
            seed=self.seed,
            chat=chat,
        )
        if asks:
            return answer.strip().split(END)[0]
        return answer if chat else prompt + answer

    def _sourced(self, learner: Any, prompt: str) -> str:
        """An answer; where it is from goes to stderr."""
        import sys

        text, source = learner.answer(prompt, tokens=self.tokens)
        read = (
            "nothing studied fits the question: answered as before study"
            if source is None
            else f"from {source}"
        )
        print(f"({read})", file=sys.stderr, flush=True)
        return text

    def _converse(self, learner: Any) -> None:
        """Answer line by line."""
        import sys

        from nestling.continual.study.talk import Talk
        from nestling.core.error import UserError

        talk = Talk(learner, self.memory)
        shown = sys.stdin.isatty()
        while True:
            if shown:
                print("> ", end="", flush=True)
            line = sys.stdin.readline()
            if not line or line.strip() == "/quit":
                return
            try:
                said = talk.told(line.strip(), lambda prompt: self._answer(learner, prompt))
            except UserError as error:
                said = f"error: {error}"
            if said:
                print(said, flush=True)
