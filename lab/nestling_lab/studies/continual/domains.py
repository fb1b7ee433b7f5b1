"""Five domains read one after another: the gain on each, and the loss on the others."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field

from nestling.core.result import Result, provenance
from nestling.data import load_corpus
from nestling_lab.studies.continual.base import Pretraining
from nestling_lab.studies.continual.contenders import CONTENDERS, EVERY, LARGE, NONE
from nestling_lab.studies.continual.domain_figures import Journeys
from nestling_lab.studies.continual.domain_report import report
from nestling_lab.studies.continual.journey import OLD, travel
from nestling_lab.studies.study import Cell, Finding, Study, Tell, silent
from nestling_lab.studies.tuned import Tuned

DOMAINS = ("anarchism", "stdlib-code", "kjv", "python-doc", "stdlib")


class Domains(Study):
    """A small Llama trained on one text reads five others; every method has six settings."""

    name = "continual-domains"
    question = "does a model of levels learn one domain after another and keep those before"

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Sizes of the study."""

        domains: tuple[str, ...] = DOMAINS  # in the order they are read
        contenders: tuple[str, ...] = tuple(CONTENDERS)
        seeds: tuple[int, ...] = (0, 1, 2, 3, 4)  # of the model, and of the choice of documents
        base: Pretraining | str = field(  # or the name of a pretrained one, the same for all seeds
            default_factory=lambda: Pretraining(corpus=OLD, vocabulary=(OLD, *DOMAINS))
        )
        tokens: int = 8192  # tokens read per domain
        longest: int = 2048  # tokens of a document that is read
        test_tokens: int = 2048  # per domain, and as many to choose the setting
        test_longest: int = 256  # tokens of a document that is scored
        segment: int = 64  # tokens between two writes of the fastest weights
        window: int = 512  # tokens of context, while reading and scoring

    def __init__(self, config: Config | None = None):
        self.config = config or Domains.Config()

    def cell(self, contender: str, setting: int, seed: int) -> Cell:
        """One run of a method with one of its settings (by number)."""
        config = dataclasses.asdict(self.config)
        del config["contenders"], config["seeds"]
        chosen = EVERY[contender]
        config |= {
            "method": contender,
            "setting": dict(chosen.settings[setting]),
            "gates": list(chosen.gates),
        }
        return Cell(f"{contender}-{setting}-seed{seed}", config, seed)

    def tuned(self, gate: str) -> Tuned[int]:
        """The tuning of every method when it answers through a gate."""
        return Tuned(
            models=self.config.contenders,
            settings=lambda contender: range(len(EVERY[contender].settings)),
            seeds=self.config.seeds,
            cell=self.cell,
            loss=lambda result: result.metrics[gate]["validation"],
        )

    def grid(self, contender: str) -> list[Cell]:
        """The cells of every setting of a method, with the first seed."""
        return self.tuned(NONE).grid(contender)

    def best(self, contender: str, done: Mapping[str, Result]) -> dict[str, int]:
        """The setting with the lowest loss for each gate; empty before all have been tried."""
        best = {gate: self.tuned(gate).best(contender, done) for gate in EVERY[contender].gates}
        return {gate: setting for gate, setting in best.items() if setting is not None}

    def cells(self, done: Mapping[str, Result]) -> list[Cell]:
        """The grid of every method, then the chosen settings with the other seeds."""
        contenders, others = self.config.contenders, self.config.seeds[1:]
        return [cell for c in contenders for cell in self.grid(c)] + [
            self.cell(c, setting, seed)
            for c in contenders
            for setting in sorted(set(self.best(c, done).values()))
            for seed in others
        ]

    def run(self, cell: Cell, *, tell: Tell = silent, device: str = "cpu") -> Result:
        """Read all domains with one method."""
        runs = travel(cell.config, cell.seed, tell)
        return Result(
            name=f"{self.name}/{cell.name}",
            config=cell.config,
            metrics={gate: run._asdict() for gate, run in runs.items()},
            seed=cell.seed,
            corpus=", ".join(load_corpus(name).tag for name in (OLD, *cell.config["domains"])),
            provenance=provenance(device),
        )

    def journeys(self, done: Mapping[str, Result]) -> list[Journeys]:
        """For every method and gate, the chosen setting and the matrices of finished seeds."""
        found = []
        for c in self.config.contenders:
            for gate, number in self.best(c, done).items():
                names = {seed: self.cell(c, number, seed).name for seed in self.config.seeds}
                matrices = {
                    seed: done[name].metrics[gate]["matrix"]
                    for seed, name in names.items()
                    if name in done
                }
                found.append(Journeys(c, gate, EVERY[c].settings[number], matrices))
        return found

    def find(self, done: Mapping[str, Result]) -> Finding:
        """Final averages, forgetting, transfer and the matrix of every method."""
        return report(self.config, self.journeys(done))


class LargeDomains(Domains):
    """The same with SmolLM2-135M, whose training text is not available: it must retain prose."""

    name = "continual-domains-smollm2"
    question = "does a pretrained model of levels do so too, as far as few tokens show"

    def __init__(self, config: Domains.Config | None = None):
        super().__init__(
            config
            or Domains.Config(
                contenders=tuple(LARGE),
                seeds=(0,),
                base="smollm2-135m-instruct",
                tokens=512,
                longest=512,
                test_tokens=128,
                test_longest=128,
            )
        )
