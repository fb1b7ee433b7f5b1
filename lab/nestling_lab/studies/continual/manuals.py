"""How much of a page that was read, and later corrected, is known in a new process."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nestling.core.result import Result
from nestling_lab.studies.continual.commands import adapted, ask, learn, peak_bytes
from nestling_lab.studies.continual.manual_report import WAYS, report
from nestling_lab.studies.continual.manual_texts import SOURCE, Manual, manual_texts
from nestling_lab.studies.study import Cell, Finding, Study, Tell, silent


class Manuals(Study):
    """Each text with the default commands, one memory for a text and its correction."""

    source = SOURCE
    ways = tuple(WAYS)
    about = ""  # what a correction is said to be about when it is learned
    name = "manuals"
    question = "what of a page that was read, and of its correction, is answered with the text gone"

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Sizes of the study."""

        model: str = "smollm2-135m-instruct"
        texts: tuple[str, ...] = ()  # empty: all

    def __init__(self, config: Config | None = None):
        given = config or Manuals.Config()
        self.config = replace(given, texts=given.texts or tuple(manual_texts(self.source)))

    def cells(self, done: Mapping[str, Result]) -> list[Cell]:
        """One cell per text and its correction, held-out ones first, with a single seed."""
        texts = manual_texts(self.source)
        return [Cell(name, self._settings(texts[name]), 0) for name in self.config.texts]

    def _settings(self, one: Manual) -> dict[str, Any]:
        return ({"about": self.about} if self.about else {}) | {
            "model": self.config.model,
            "text": one.text,
            "correction": one.correction,
            "asked": [[asked.ask, list(asked.accept), list(asked.others)] for asked in one.asked],
        }

    def run(self, cell: Cell, *, tell: Tell = silent, device: str = "cpu") -> Result:
        """Learn the text and ask; if there is a correction, learn it as well and ask again."""
        one, model = manual_texts(self.source)[cell.name], adapted(cell.config["model"])
        questions = [asked.ask for asked in one.asked]
        read = [one.text, f"{one.text}\n\n{one.correction}"] if one.correction else [one.text]
        stages: list[dict[str, Any]] = []
        with tempfile.TemporaryDirectory() as folder:
            memory = Path(folder) / "memory"
            for number, text in enumerate(read):
                name, new = ("correction", one.correction) if number else ("text", one.text)
                ways = [way for way in self.ways if way != "nothing" or not number]
                about = self.about if number else ""
                learned = learn(model, new, memory, name=f"{name}.txt", about=about, device=device)
                said = ask(model, memory, text, questions, ways)
                stages.append({"said": said, **learned})
                tell(number + 1, len(read), 0.0)
        first = stages[0]["study"]["known_before"]
        metrics = {
            "words": len(one.text.split()),
            "stages": stages,
            "known": [stage["study"]["known_after"] / first - 1 for stage in stages],
            "peak_bytes": peak_bytes(),
        }
        name = f"{self.name}/{cell.name}"
        return Result(name=name, config=cell.config, metrics=metrics, seed=cell.seed)

    def find(self, done: Mapping[str, Result]) -> Finding:
        """The replies that are as they should be, by reader, for each half of the texts."""
        runs = {name: done[name].metrics for name in self.config.texts if name in done}
        return report(self.config.model, runs)
