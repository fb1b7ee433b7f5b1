"""Many documents in one memory: what of the first ones is still answered, and what else changes."""

import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nestling.continual.learner import ContinualLearner
from nestling.continual.opening import open_learner
from nestling.core.result import Result, provenance
from nestling.data import load_corpus
from nestling.data.cache import cache_folder, digest, keep
from nestling_lab.studies.continual.commands import adapted
from nestling_lab.studies.continual.facts import KNOWN
from nestling_lab.studies.continual.many_asked import (
    GENERAL,
    bound,
    facts,
    known,
    margins,
    replies,
)
from nestling_lab.studies.continual.many_report import report
from nestling_lab.studies.study import Cell, Finding, Study, Tell, silent


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
        probe: int = 2048  # characters of each held-out text
        known: tuple[str, ...] = (KNOWN, "anarchism")  # corpora of held-out text
        general: int = len(GENERAL)  # questions of general knowledge
        social: int = 100  # questions of social_iqa (BIG-bench)

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
            corpus="; ".join(load_corpus(name).tag for name in cell.config["known"]),
            provenance=provenance(device),
        )

    def find(self, done: Mapping[str, Result]) -> Finding:
        """Right answers by the number of documents since, and the loss of known text."""
        runs = [done[cell.name] for cell in self.cells(done) if cell.name in done]
        return report(self.config, [run.metrics for run in runs])


def journey(
    learner: ContinualLearner, config: Mapping[str, Any], seed: int, folder: Path, tell: Tell
) -> dict[str, Any]:
    """Study document after document; ``folder`` holds what is done of it."""
    memory, file = folder / "memory", folder / "found.json"
    targets, count = config["targets"], config["targets"] + max(config["distances"])
    found: dict[str, Any]
    first = [facts(seed, number)[1] for number in range(targets)]
    if file.exists() and memory.exists():
        found = json.loads(file.read_text("utf-8"))
        learner.load(memory)
    else:
        found = {
            "own": [],  # the loss of text that the base wrote, before and after each document
            "replies": {str(distance): [] for distance in config["distances"]},
            "margins": {str(distance): [] for distance in config["distances"]},
            "strangers": [],
            "control": [
                [margins(learner, asked, strange) for strange in (False, True)] for asked in first
            ],
            "stranger_margins": [],
            "kept": [known(learner, config)],  # before and after all documents
            "seconds": [],  # of CPU time, by document
        }
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
        for distance in config["distances"]:
            if 0 <= number - distance < targets:
                back = facts(seed, number - distance)[1]
                found["replies"][str(distance)].append(replies(learner, back))
                found["margins"][str(distance)].append(margins(learner, back))
        if number < targets:
            found["strangers"].append(replies(learner, asked, strange=True))
            found["stranger_margins"].append(margins(learner, asked, strange=True))
        keep(file, json.dumps(found).encode())
        tell(number + 1, count, figures["known_after"])
    found["bound"] = bound(learner, first)
    found["unchecked"] = [replies(learner, asked, check=False) for asked in first]
    found["at_once"] = [replies(all_at_once(learner), asked, check=False) for asked in first]
    found["kept"].append(known(learner, config))
    return found


def all_at_once(learner: ContinualLearner) -> ContinualLearner:
    """A learner that uses the changes of all its documents together."""
    joint = learner.fork()
    studied = tuple(one._replace(alone=False) for one in learner.state.studied)
    joint.state = joint.state._replace(studied=studied)
    return joint


def keep_memory(learner: ContinualLearner, path: Path) -> None:
    """Write the memory where the next run finds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    learner.save(path, overwrite=True)
