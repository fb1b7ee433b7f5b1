"""Many documents in one memory: what of the first ones is still answered, and what else changes."""

import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from nestling.continual.learner import ContinualLearner
from nestling.continual.opening import open_learner
from nestling.continual.study.examine import holds
from nestling.core.result import Result, provenance
from nestling.data import load_corpus
from nestling.data.cache import cache_folder, digest, keep
from nestling.tasks import Question
from nestling_lab.studies.continual.commands import adapted
from nestling_lab.studies.continual.facts import KNOWN, drawn
from nestling_lab.studies.continual.many_report import report
from nestling_lab.studies.study import Cell, Finding, Study, Tell, silent

TOKENS = 40  # of an answer, at most


class Fact(NamedTuple):
    """A question about a document, its answer, and the question about somebody in no document."""

    ask: str
    value: str
    stranger: str


class ManyDocuments(Study):
    """Documents of made-up facts, studied one after another with the defaults."""

    name = "many-documents"
    question = "is a document that was studied still known after 24 others, and is other text kept"

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Sizes of the study."""

        model: str = "smollm2-135m-instruct"
        seeds: tuple[int, ...] = (0, 1, 2)  # of the documents
        targets: int = 4  # first documents that are asked about
        distances: tuple[int, ...] = (0, 8, 24)  # documents studied since
        probe: int = 2048  # characters of held-out documentation

    def __init__(self, config: Config | None = None):
        self.config = config or ManyDocuments.Config()

    def cells(self, done: Mapping[str, Result]) -> list[Cell]:
        """One memory per seed."""
        config = asdict(self.config)
        seeds = config.pop("seeds")
        return [Cell(f"seed{seed}", config, seed) for seed in seeds]

    def run(self, cell: Cell, *, tell: Tell = silent, device: str = "cpu") -> Result:
        """Study the documents and ask; if interrupted, the next run continues after the last."""
        learner = open_learner(adapted(cell.config["model"]), device=device)
        about = json.dumps([cell.config, cell.seed], sort_keys=True)
        folder = cache_folder() / "studies" / f"many-{digest([about])[:16]}"
        metrics = journey(learner, cell.config, cell.seed, folder, tell)
        shutil.rmtree(folder, ignore_errors=True)
        return Result(
            name=f"{self.name}/{cell.name}",
            config=cell.config,
            metrics=metrics,
            seed=cell.seed,
            corpus=load_corpus(KNOWN).tag,
            provenance=provenance(device),
        )

    def find(self, done: Mapping[str, Result]) -> Finding:
        """Right answers by the number of documents since, and the loss of known text."""
        runs = [done[cell.name] for cell in self.cells(done) if cell.name in done]
        return report(self.config, [run.metrics for run in runs])


def facts(seed: int, number: int) -> tuple[str, list[Fact]]:
    """A document of six facts about one person, and the questions about it."""
    one, others = drawn(seed, number)
    pairs = zip(one.questions, others, strict=True)
    return one.text, [Fact(_bare(own), own.answers[0], _bare(other)) for own, other in pairs]


def _bare(question: Question) -> str:
    """A question as a user would ask it."""
    return question.prompt.removeprefix("Question: ").split("\n")[0]


def journey(
    learner: ContinualLearner, config: Mapping[str, Any], seed: int, folder: Path, tell: Tell
) -> dict[str, Any]:
    """Study document after document; ``folder`` holds what is done of it."""
    memory, file = folder / "memory", folder / "found.json"
    targets, count = config["targets"], config["targets"] + max(config["distances"])
    probe = "\n".join(load_corpus(KNOWN).held_out)[: config["probe"]]
    found: dict[str, Any] = {
        "known": [learner.score(probe).loss],
        "own": [],  # the loss of text that the base wrote, before and after each document
        "replies": {str(distance): [] for distance in config["distances"]},
        "strangers": [],
        "seconds": [],  # of CPU time, by document
    }
    if file.exists() and memory.exists():
        found = json.loads(file.read_text("utf-8"))
        learner.load(memory)
    for number in range(len(found["seconds"]), count):
        text, asked = facts(seed, number)
        begin = time.process_time()
        if len(learner.state.studied) == number:  # else the memory was saved, its figures were not
            learner.read(text, name=f"document {number}")
            learner.study()
            keep_memory(learner, memory)
        found["seconds"].append(time.process_time() - begin)
        figures = learner.state.studied[number].figures
        found["own"].append([figures["known_before"], figures["known_after"]])
        found["known"].append(learner.score(probe).loss)
        for distance in config["distances"]:
            if 0 <= number - distance < targets:
                back = facts(seed, number - distance)[1]
                found["replies"][str(distance)].append(replies(learner, back))
        if number < targets:
            said = [learner.ask(fact.stranger, tokens=TOKENS) for fact in asked]
            found["strangers"].append([[f.value, a] for f, a in zip(asked, said, strict=True)])
        keep(file, json.dumps(found).encode())
        tell(number + 1, count, found["known"][-1])
    return found


def keep_memory(learner: ContinualLearner, path: Path) -> None:
    """Write the memory where the next run finds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    learner.save(path, overwrite=True)


def replies(learner: ContinualLearner, asked: Sequence[Fact]) -> list[list[Any]]:
    """For each question: the value, the reply, and whether the reply holds it."""
    said = [learner.ask(fact.ask, tokens=TOKENS) for fact in asked]
    return [[f.value, a, holds(a, f.value)] for f, a in zip(asked, said, strict=True)]
