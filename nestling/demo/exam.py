"""Ask the questions before and after study, in this process and in one that has only the files."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from nestling.continual.guard import probe_loss
from nestling.continual.learner import ContinualLearner
from nestling.continual.opening import open_learner
from nestling.continual.surprise import surprise

TOKENS = 40  # longest answer
START = "import sys; from nestling.demo.exam import main; main(sys.argv[1:])"


class Exam(NamedTuple):
    """The questions and measurements of an exam."""

    asked: tuple[str, ...]  # questions about the texts
    general: tuple[str, ...]  # questions about other things
    read: tuple[str, ...]  # texts whose surprise is measured
    kept: str  # a text whose loss is measured


class Found(NamedTuple):
    """The results of an exam."""

    asked: list[str]  # answers
    general: list[str]
    read: list[list[tuple[str, float | None]]]  # pieces of each text, with nats
    kept: float  # nats per token


def examine(learner: ContinualLearner, exam: Exam) -> Found:
    """Ask and measure; each question is asked in an empty context, and nothing is learned."""
    return Found(
        [learner.ask(question, tokens=TOKENS) for question in exam.asked],
        [learner.ask(question, tokens=TOKENS) for question in exam.general],
        [[tuple(piece) for piece in surprise(learner, text)] for text in exam.read],
        probe_loss(learner, [exam.kept]),
    )


def examine_elsewhere(model: Path, memory: Path, exam: Exam, device: str = "cpu") -> Found:
    """``examine`` in a new process that has only the model's folder and the memory file."""
    with tempfile.TemporaryDirectory() as place:
        asked, answered = Path(place) / "asked.json", Path(place) / "answered.json"
        asked.write_text(json.dumps(exam._asdict()), encoding="utf-8")
        options = [model, memory, asked, answered, device, torch.get_num_threads()]
        command = [sys.executable, "-c", START, *map(str, options)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"the process that loads the memory failed: {done.stderr[-2000:]}")
        return Found(**json.loads(answered.read_text(encoding="utf-8")))


def main(arguments: Sequence[str]) -> None:
    """The entry point of the new process, with its command-line arguments."""
    model, memory, asked, answered, device, threads = arguments
    torch.set_num_threads(int(threads))
    given: dict[str, Any] = json.loads(Path(asked).read_text(encoding="utf-8"))
    learner = open_learner(model, Path(memory), device=device, must_exist=True)
    found = examine(learner, Exam(**given))
    Path(answered).write_text(json.dumps(found._asdict()), encoding="utf-8")
