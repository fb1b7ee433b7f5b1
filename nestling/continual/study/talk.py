"""A conversation with a model and its memory: questions, and texts to study in between."""

from collections.abc import Callable
from pathlib import Path

from nestling.continual.learner import ContinualLearner
from nestling.continual.opening import read_documents
from nestling.continual.study.session import Studies
from nestling.core.error import UserError
from nestling.data.lock import locked


class Talk:
    """Handles lines of a conversation; each question is answered without context.

    ``memory`` is the file for what is read; without one, reading raises UserError.
    """

    def __init__(self, learner: ContinualLearner, memory: Path | None):
        self.learner, self.memory = learner, memory

    def told(self, line: str, answer: Callable[[str], str]) -> str:
        """The response to a line: an answer, or the outcome of a command."""
        if not line:
            return ""
        command, _, rest = line.partition(" ")
        if command == "/read":
            return self._read(rest.strip())
        if command == "/undo":
            return self._undo()
        if command.startswith("/"):
            raise UserError(f"unknown command {command}; use /read FILE, /undo or /quit")
        return answer(line)

    def _file(self) -> Path:
        if self.memory is None:
            raise UserError("there is no memory file to store it in; start with --memory FILE")
        return self.memory

    def _read(self, name: str) -> str:
        if not name:
            raise UserError("/read needs a file name; write /read FILE")
        memory = self._file()
        [(title, text)] = read_documents([name])
        studies = Studies(learner=self.learner, memory=memory)
        with locked(memory, "nestling ask"):
            self.learner.studies = True
            self.learner.read(text, name=title)
            with studies.shown():
                studies.run()
        return studies.summary()

    def _undo(self) -> str:
        memory = self._file()
        with locked(memory, "nestling ask"):
            gone = self.learner.undo()
            self.learner.save(memory)
        return f"{gone.name or 'the last text'} is forgotten"
