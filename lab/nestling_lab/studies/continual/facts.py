"""Made-up facts, asked for without their document, right after it and many documents later."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, NamedTuple

from nestling.continual.methods import Method
from nestling.continual.stream import Cut
from nestling.core.result import Result, provenance
from nestling.data import load_corpus
from nestling.tasks import Question
from nestling.tasks.facts import Document, document, name
from nestling_lab.studies.continual.asking import Asked, answers, encode_question, view
from nestling_lab.studies.continual.base import Ready, encoded, real
from nestling_lab.studies.continual.contenders import NONE, Place
from nestling_lab.studies.continual.fact_readers import READERS
from nestling_lab.studies.continual.fact_report import report
from nestling_lab.studies.continual.journey import bits
from nestling_lab.studies.study import Cell, Finding, Study, Tell, silent
from nestling_lab.studies.tuned import least

KNOWN = "stdlib"  # text that the model should know already: Python's documentation
STILL = ("frozen", "document")  # readers that read nothing, asked only once
UNWRITTEN = (*STILL, "in-context", "retrieval")  # readers that a second pass would not change
TUNING = 1000  # seed of the documents used to choose settings


class Told(NamedTuple):
    """An encoded document with its questions."""

    ids: list[int]
    questions: list[Asked]
    strangers: list[Asked]  # the same questions about people in no document


class Facts(Study):
    """A pretrained model reads short documents of made-up facts, one after another."""

    name = "facts"
    question = "is what was read once still known when the document is gone, and 24 documents later"

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Sizes of the study."""

        model: str = "smollm2-135m-instruct"
        readers: tuple[str, ...] = tuple(READERS)
        seeds: tuple[int, ...] = (0, 1)  # of the documents
        targets: int = 6  # first documents that are asked about
        distances: tuple[int, ...] = (0, 1, 2, 4, 8, 16, 24)  # documents read since
        passes: int = 1  # consecutive passes over a document, for readers with writes
        segment: int = 64  # tokens between two writes of the fastest weights
        window: int = 1024  # tokens of context
        tuning: int = 4  # documents that each setting is tried on
        known: int = 4  # documents that EWC and rehearsal start with
        probe: int = 512  # tokens of held-out text, to measure earlier knowledge

    def __init__(self, config: Config | None = None):
        self.config = config or Facts.Config()

    def _cell(self, name: str, reader: str, seed: int, **more: Any) -> Cell:
        config = dataclasses.asdict(self.config)
        del config["readers"], config["seeds"]
        return Cell(name, config | {"reader": reader, **more}, seed)

    def trial(self, reader: str) -> Cell | None:
        """A cell that tries every setting on a few documents; None if there is only one."""
        settings = list(READERS[reader].settings)
        if len(settings) == 1:
            return None
        return self._cell(f"{reader}-trial", reader, TUNING, settings=settings)

    def best(self, reader: str, done: Mapping[str, Result]) -> dict[str, Any] | None:
        """The setting with the lowest loss; None while unknown."""
        cell, settings = self.trial(reader), READERS[reader].settings
        if cell is None:
            return dict(settings[0])
        if cell.name not in done:
            return None
        return dict(settings[least(done[cell.name].metrics["losses"])])

    def runs(self, reader: str, done: Mapping[str, Result]) -> list[Cell]:
        """The cells of all seeds with the best setting; empty while it is unknown."""
        setting = self.best(reader, done)
        if setting is None:
            return []
        return [
            self._cell(f"{reader}-seed{seed}", reader, seed, setting=setting)
            for seed in self.config.seeds
        ]

    def cells(self, done: Mapping[str, Result]) -> list[Cell]:
        """The trials of all readers, then their first seeds, then the other seeds."""
        trials = [self.trial(reader) for reader in self.config.readers]
        runs = [cell for reader in self.config.readers for cell in self.runs(reader, done)]
        return [cell for cell in trials if cell] + sorted(runs, key=lambda cell: cell.seed)

    def run(self, cell: Cell, *, tell: Tell = silent, device: str = "cpu") -> Result:
        """Read the documents and answer the questions."""
        made = trials if cell.seed == TUNING else journey
        return Result(
            name=f"{self.name}/{cell.name}",
            config=cell.config,
            metrics=made(cell.config, cell.seed, tell),
            seed=cell.seed,
            corpus=load_corpus(KNOWN).tag,
            provenance=provenance(device),
        )

    def find(self, done: Mapping[str, Result]) -> Finding:
        """Accuracy and margin by distance, and comparisons of the readers."""
        found, tried = {}, {}
        for reader in self.config.readers:
            runs = [done[c.name] for c in self.runs(reader, done) if c.name in done]
            if runs:
                found[reader] = runs
            cell = self.trial(reader)
            if cell and cell.name in done:
                losses = done[cell.name].metrics["losses"]
                tried[reader] = list(zip(READERS[reader].settings, losses, strict=True))
        return report(self.config, found, tried)


def drawn(seed: int, number: int) -> tuple[Document, list[Question], str]:
    """A document of a seed, its questions asked about a person in no document, and their name."""
    rng = Random(f"facts:{seed}:{number}")
    one, stranger = document(rng), name(rng)
    person = one.text.splitlines()[0].removeprefix("About ")
    others = [q._replace(prompt=q.prompt.replace(person, stranger)) for q in one.questions]
    return one, others, stranger


def told_documents(base: Ready, seed: int, count: int) -> list[Told]:
    """The documents of a seed; each ends with an empty line."""
    found = []
    for number in range(count):
        one, others, _ = drawn(seed, number)
        ids = base.tokenizer(one.text + "\n\n", verbose=False)["input_ids"]
        ask = [
            [encode_question(base.tokenizer, q) for q in some] for some in (one.questions, others)
        ]
        found.append(Told(list(ids), *ask))
    return found


def begin(config: Mapping[str, Any], base: Ready, seed: int, setting: Mapping[str, Any]) -> Method:
    """A reader that has read nothing."""
    texts = load_corpus(KNOWN).documents[: config["known"]]
    size = config["segment"]
    known = [ids for text in texts for ids in encoded(base.tokenizer, [text], size, size)]
    place = Place(base, known, Cut(size, config["window"]), seed, fused=True)
    return READERS[config["reader"]].build(place, dict(setting))


def take_in(config: Mapping[str, Any], method: Method, ids: Sequence[int]) -> None:
    """Read one document, in as many passes as the configuration says."""
    for _ in range(1 if config["reader"] in UNWRITTEN else config["passes"]):
        method.read(ids)
    method.end_task()


def replies(
    config: Mapping[str, Any], method: Method, one: Told, questions: Sequence[Asked]
) -> list[list[float]]:
    """For each question: right or not, margin, loss, said or not."""
    how = view(method)
    if config["reader"] == "document":
        how = how._replace(prefix=lambda prompt: tuple(one.ids))
    return [answer.record() for answer in answers(how, questions)]


def trials(config: Mapping[str, Any], seed: int, tell: Tell = silent) -> dict[str, Any]:
    """The loss over the choices for each setting, on all documents, after reading the last one."""
    base = real(config["model"])
    documents = told_documents(base, seed, config["tuning"])
    losses = []
    for number, setting in enumerate(config["settings"]):
        method = begin(config, base, seed, setting)
        for one in documents:
            take_in(config, method, one.ids)
        found = [
            reply for one in documents for reply in replies(config, method, one, one.questions)
        ]
        losses.append(sum(reply[2] for reply in found) / len(found))
        tell(number + 1, len(config["settings"]), losses[-1])
    return {"losses": losses}


def journey(config: Mapping[str, Any], seed: int, tell: Tell = silent) -> dict[str, Any]:
    """The replies by distance and target document, and the loss of known text, in bits per byte."""
    base = real(config["model"])
    targets, still = config["targets"], config["reader"] in STILL
    distances = (0,) if still else config["distances"]
    documents = told_documents(base, seed, targets + max(distances))
    probe = encoded(base.tokenizer, load_corpus(KNOWN).held_out, config["probe"], 256)
    method = begin(config, base, seed, config["setting"])
    before = bits(method, base, probe, (NONE,))[NONE]
    found: dict[str, list[Any]] = {str(distance): [] for distance in distances}
    strangers = []
    for number, one in enumerate(documents):
        if not still:
            take_in(config, method, one.ids)
        for distance in distances:
            if 0 <= number - distance < targets:
                back = documents[number - distance]
                found[str(distance)].append(replies(config, method, back, back.questions))
        if number < targets:
            strangers.append(replies(config, method, one, one.strangers))
        tell(number + 1, len(documents), 0.0)
    return {
        "replies": found,
        "strangers": strangers,
        "known": [before, bits(method, base, probe, (NONE,))[NONE]],
        "updates": method.updates,
        "tokens": sum(len(one.ids) for one in documents),
    }
