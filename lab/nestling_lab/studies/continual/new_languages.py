"""Two new languages, one after the other: the gain in each, and what the second destroys."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nestling.continual.methods import Method
from nestling.continual.stream import Cut
from nestling.core.result import Result, provenance
from nestling.data import load_corpus, load_set
from nestling_lab.studies.continual.asking import answers, view
from nestling_lab.studies.continual.base import Pretraining, Ready, encoded, small
from nestling_lab.studies.continual.contenders import CONTENDERS, NONE, Place
from nestling_lab.studies.continual.domains import DOMAINS
from nestling_lab.studies.continual.journey import KNOWN, OLD, bits
from nestling_lab.studies.continual.language_report import report
from nestling_lab.studies.continual.languages import LANGUAGES, Lessons, lessons
from nestling_lab.studies.study import Cell, Finding, Study, Tell, silent
from nestling_lab.studies.tuned import Tuned

READERS = ("frozen", "in-context", "fine-tuning", "levels-1", "levels-2", "levels-3")
TAKEN = slice(1, 4, 2)  # the second and fourth setting of continual-domains
VERSES = "verses"
BATCH = 8  # questions asked at once


class NewLanguages(Study):
    """A small English Llama reads two languages, alone and in sequence (the setup of Figure 8)."""

    name = "new-languages"
    question = "does learning a second language take away the first"

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Sizes of the study."""

        languages: tuple[str, ...] = tuple(LANGUAGES)  # in the order they are read
        readers: tuple[str, ...] = READERS
        seeds: tuple[int, ...] = (0, 1, 2)  # of the model, and of the choice of verses
        # the base of continual-domains, trained once for both studies
        base: Pretraining = field(
            default_factory=lambda: Pretraining(corpus=OLD, vocabulary=(OLD, *DOMAINS))
        )
        tokens: int = 8192  # tokens read per language
        longest: int = 512  # tokens of a document that is read
        test_tokens: int = 1536  # per language, and as many to choose the setting
        test_longest: int = 256  # tokens of a document that is scored
        cloze: int = 60  # verses per language whose last word is asked for
        segment: int = 64  # tokens between two writes of the fastest weights
        window: int = 512  # tokens of context

    def __init__(self, config: Config | None = None):
        self.config = config or NewLanguages.Config()
        self.tuned = Tuned(
            models=self.config.readers,
            settings=lambda reader: range(len(settings_of(reader))),
            seeds=self.config.seeds,
            cell=lambda reader, n, seed: self.cell(reader, n, seed, self.config.languages),
            loss=lambda result: result.metrics["validation"],
        )

    def cell(self, reader: str, setting: int, seed: int, languages: Sequence[str]) -> Cell:
        """One reader with one of its settings (by number) learns some languages in order."""
        config = dataclasses.asdict(self.config)
        del config["readers"], config["seeds"]
        config |= {"reader": reader, "setting": settings_of(reader)[setting]}
        config |= {"languages": list(languages)}
        alone = "" if len(languages) > 1 else f"-{languages[0]}-alone"
        return Cell(f"{reader}-{setting}{alone}-seed{seed}", config, seed)

    def sequence(self, reader: str, setting: int) -> list[Cell]:
        """Setup 2: the cells of all seeds that learn one language after the other."""
        languages = self.config.languages
        return [self.cell(reader, setting, seed, languages) for seed in self.config.seeds]

    def alone(self, reader: str, setting: int) -> list[Cell]:
        """Setup 1 for the second language; for the first it is the first half of the sequence."""
        second = self.config.languages[1:]
        return [self.cell(reader, setting, seed, second) for seed in self.config.seeds]

    def cells(self, done: Mapping[str, Result]) -> list[Cell]:
        """The grid of every reader, then the chosen setting: other seeds, and the second alone."""
        cells = [cell for reader in self.config.readers for cell in self.tuned.grid(reader)]
        for reader in self.config.readers:
            setting = self.tuned.best(reader, done)
            if setting is not None:
                cells += self.sequence(reader, setting)[1:] + self.alone(reader, setting)
        return cells

    def run(self, cell: Cell, *, tell: Tell = silent, device: str = "cpu") -> Result:
        """Read, and measure after each language."""
        return Result(
            name=f"{self.name}/{cell.name}",
            config=cell.config,
            metrics=travel(cell.config, cell.seed, tell),
            seed=cell.seed,
            corpus=f"{load_corpus(OLD).tag}, {load_set(VERSES).tag}",
            provenance=provenance(device),
        )

    def find(self, done: Mapping[str, Result]) -> Finding:
        """The figures of each language alone and after both, and what is kept of the first."""
        found = {}
        for reader in self.config.readers:
            setting = self.tuned.best(reader, done)
            if setting is None:
                continue
            both, one = self.sequence(reader, setting), self.alone(reader, setting)
            seeds = [
                (done[a.name].metrics, done[b.name].metrics if b.name in done else None)
                for a, b in zip(both, one, strict=True)
                if a.name in done
            ]
            if seeds:
                found[reader] = (settings_of(reader)[setting], seeds)
        return report(self.config, found)


def settings_of(reader: str) -> list[dict[str, Any]]:
    """The settings that a reader is tuned over."""
    settings = CONTENDERS[reader].settings
    return [dict(setting) for setting in (settings[TAKEN] if len(settings) > 1 else settings)]


def travel(config: Mapping[str, Any], seed: int, tell: Tell = silent) -> dict[str, Any]:
    """Read the languages of the cell, and measure both before and after each."""
    base = small(Pretraining(**config["base"]), seed, tell)
    verses = load_set(VERSES).rows
    taught = {name: lessons(base.tokenizer, name, verses, config, seed) for name in LANGUAGES}
    corpus = load_corpus(OLD)
    old = encoded(base.tokenizer, corpus.held_out, config["test_tokens"], config["test_longest"])
    known = encoded(base.tokenizer, corpus.documents, KNOWN * 512, 512)
    place = Place(base, known, Cut(config["segment"], config["window"]), seed)
    method = CONTENDERS[config["reader"]].build(place, dict(config["setting"]))
    stages = [stage(method, base, old, taught)]
    for name in config["languages"]:
        for ids in taught[name].read:
            method.read(ids)
        method.end_task()
        stages.append(stage(method, base, old, taught))
        tell(len(stages) - 1, len(config["languages"]), stages[-1]["bits"][name])
    parts = [old, *(taught[name].validation for name in config["languages"])]
    losses = [bits(method, base, part, (NONE,))[NONE] for part in parts]
    return {
        "stages": stages,
        "validation": sum(losses) / len(losses),
        "updates": method.updates,
    }


def stage(
    method: Method, base: Ready, old: list[list[int]], taught: Mapping[str, Lessons]
) -> dict[str, Any]:
    """Bits per byte of the old text and of each language, and the cloze accuracy of each."""
    parts = {OLD: old, **{name: lesson.test for name, lesson in taught.items()}}
    return {
        "bits": {name: bits(method, base, part, (NONE,))[NONE] for name, part in parts.items()},
        "cloze": {name: accuracy(method, lesson) for name, lesson in taught.items()},
    }


def accuracy(method: Method, lesson: Lessons) -> float:
    """The share of verses whose last word is the most likely choice."""
    how, right = view(method), 0
    for first in range(0, len(lesson.cloze), BATCH):
        right += sum(one.right for one in answers(how, lesson.cloze[first : first + BATCH]))
    return right / len(lesson.cloze)
