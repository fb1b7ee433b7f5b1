"""Five domains read one after the other: what is gained on each, what is lost on the others."""

import dataclasses
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from nestling.continual.methods import Method
from nestling.continual.stream import Cut
from nestling.core.result import Result, provenance
from nestling.core.statistics import interval
from nestling.data import load_corpus
from nestling.report import Section, Table
from nestling.studies.continual.base import Pretraining, Ready, encoded, size_in_bytes, small
from nestling.studies.continual.contenders import CONTENDERS, Place
from nestling.studies.study import Cell, Finding, Study, Tell, silent

OLD = "web"
DOMAINS = ("anarchism", "stdlib-code", "kjv", "python-doc", "stdlib")
KNOWN = 32  # documents of the old domain that EWC and rehearsal begin with


class Texts(NamedTuple):
    """Of one domain, as token ids."""

    read: list[list[int]]
    validation: list[list[int]]
    test: list[list[int]]


class Domains(Study):
    """A small Llama of one text reads five others; every method chooses among six settings."""

    name = "continual-domains"
    question = "does a model of levels learn one domain after another and keep those before"

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Sizes of the study."""

        domains: tuple[str, ...] = DOMAINS  # in the order they are read
        contenders: tuple[str, ...] = tuple(CONTENDERS)
        seeds: tuple[int, ...] = (0, 1, 2)  # of the model, and of which documents are read
        base: Pretraining = field(
            default_factory=lambda: Pretraining(corpus=OLD, vocabulary=(OLD, *DOMAINS))
        )
        tokens: int = 8192  # read of each domain
        longest: int = 2048  # tokens of a document that is read
        test_tokens: int = 2048  # of each domain, and as many to choose the setting
        test_longest: int = 256  # tokens of a document that is scored
        segment: int = 64  # tokens between two writes of the fastest weights
        window: int = 512  # tokens of context, while reading and scoring

    def __init__(self, config: Config | None = None):
        self.config = config or Domains.Config()

    def cell(self, contender: str) -> Cell:
        """One method: its settings with the first seed, the best with the others."""
        config = dataclasses.asdict(self.config)
        del config["contenders"]
        config |= {"method": contender, "settings": list(CONTENDERS[contender].settings)}
        return Cell(contender, config, self.config.seeds[0])

    def cells(self, done: Mapping[str, Result]) -> list[Cell]:
        """Every method."""
        return [self.cell(contender) for contender in self.config.contenders]

    def run(self, cell: Cell, *, tell: Tell = silent, device: str = "cpu") -> Result:
        """Choose a setting, then repeat it."""
        config = cell.config
        settings, (first, *others) = config["settings"], config["seeds"]
        total = len(settings) + len(others)
        grid = []
        for number, setting in enumerate(settings):
            grid.append(travel(config, setting, first, tell))
            tell(number + 1, total, grid[-1]["validation"])
        losses = [math.inf if math.isnan(run["validation"]) else run["validation"] for run in grid]
        best = losses.index(min(losses))
        runs = {str(first): grid[best]}
        for seed in others:
            runs[str(seed)] = travel(config, settings[best], seed, tell)
            tell(total, total, runs[str(seed)]["validation"])
        metrics = {
            "setting": settings[best],
            "grid": [
                {"setting": s, "validation": run["validation"]}
                for s, run in zip(settings, grid, strict=True)
            ],
            "runs": runs,
        }
        return Result(
            name=f"{self.name}/{cell.name}",
            config=config,
            metrics=metrics,
            seed=cell.seed,
            corpus=", ".join(load_corpus(name).tag for name in (OLD, *config["domains"])),
            provenance=provenance(device),
        )

    def find(self, done: Mapping[str, Result]) -> Finding:
        """Final averages, forgetting and transfer of every method, and the matrix of each."""
        found = {
            c: done[self.cell(c).name].metrics
            for c in self.config.contenders
            if self.cell(c).name in done
        }
        figures = {
            c: {seed: summary(run["matrix"]) for seed, run in record["runs"].items()}
            for c, record in found.items()
        }
        target = full_gain(figures)
        rows, metrics = [], {}
        for c, by_seed in figures.items():
            values = {
                key: [summary_[key] for summary_ in by_seed.values()]
                for key in ("final", "old_rise", "gain", "backward", "forward")
            }
            share = None if target is None else interval(values["gain"]).mean / target
            metrics[c] = {key: interval(v).record() for key, v in values.items()}
            metrics[c] |= {"share_of_full_gain": share, "setting": found[c]["setting"]}
            rows.append(
                (
                    CONTENDERS[c].title,
                    "yes" if c in ("in-context", "retrieval", "replay") else "no",
                    ", ".join(f"{k} {v:g}" for k, v in found[c]["setting"].items()),
                    str(interval(values["final"])),
                    str(interval([100 * v for v in values["old_rise"]])),
                    str(interval(values["gain"])),
                    "-" if share is None else f"{100 * share:.0f} %",
                    str(interval(values["backward"])),
                    str(interval(values["forward"])),
                )
            )
        columns = (
            "method", "stores text", "setting", "bits a byte at the end", "old domain, rise in %",
            "gain on a domain when read", "of full fine-tuning's", "backward transfer",
            "forward transfer",
        )  # fmt: skip
        sections = [
            Section("What was asked", self._about()),
            Section("After the last domain", tables=[Table(columns=columns, rows=rows)]),
        ]
        for c, record in found.items():
            sections.append(
                Section(CONTENDERS[c].title, tables=[self._matrix(record["runs"].values())])
            )
        return Finding(metrics, sections)

    def _matrix(self, runs: Sequence[Any] | Any) -> Table:
        names = (OLD, *self.config.domains)
        matrices = [run["matrix"] for run in runs]
        rows = []
        for stage, label in enumerate(("before", *self.config.domains)):
            means = [
                sum(matrix[stage][i] for matrix in matrices) / len(matrices)
                for i in range(len(names))
            ]
            rows.append((f"after {label}" if stage else label, *means))
        return Table(columns=("bits a byte of", *names), rows=rows, title="mean over seeds")

    def _about(self) -> str:
        c = self.config
        return (
            f"A Llama of {c.base.layers} layers of {c.base.hidden_size} learns {OLD} "
            f"({c.base.steps} steps of {c.base.batch_size} x {c.base.length} tokens), then reads "
            f"{c.tokens:,} tokens each of {', '.join(c.domains)}, every token once, weights "
            f"written every {c.segment} tokens at the fastest, window {c.window}. Held-out text of "
            "every domain is scored before and after each; bits a byte, smaller is better. Six "
            "settings a method with one seed; the one of least average over all domains at the "
            "end, on other held-out text than is reported, goes on with the others. Old domain: "
            "rise of its loss from first to last. Gain: fall of a domain's loss while it is read. "
            "Backward transfer: rise of a domain's loss from its own end to the end of all "
            "(positive: forgotten). Forward: fall before it is read. Full fine-tuning's gain is "
            "that at its own best setting. Mean and 95 % interval over seeds, which differ in the "
            "model and in the documents. Elastic weight consolidation and rehearsal are given "
            f"{KNOWN} documents of the old domain; rehearsal reads a stored segment for every new "
            "one, twice the reading of the others."
        )


def texts(config: Mapping[str, Any], name: str, base: Ready, seed: int) -> Texts:
    """What is read of a domain with this seed, and what it is scored on with every seed."""
    corpus = load_corpus(name)
    documents, held_out = list(corpus.documents), list(corpus.held_out)
    random.Random(seed).shuffle(documents)
    random.Random(0).shuffle(held_out)
    half = max(1, len(held_out) // 2)
    score = {"tokens": config["test_tokens"], "longest": config["test_longest"]}
    return Texts(
        encoded(base.tokenizer, documents, config["tokens"], config["longest"]),
        encoded(base.tokenizer, held_out[:half], **score),
        encoded(base.tokenizer, held_out[half:], **score),
    )


def bits(method: Method, base: Ready, documents: Sequence[Sequence[int]]) -> float:
    """Bits a byte over documents."""
    nats = sum(method.score(ids).nats for ids in documents)
    return nats / math.log(2) / sum(size_in_bytes(base.tokenizer, ids) for ids in documents)


def travel(
    config: Mapping[str, Any], setting: Mapping[str, Any], seed: int, tell: Tell = silent
) -> dict[str, Any]:
    """Read all domains; the matrix has a row a stage and a column a domain, the old one first."""
    base = small(Pretraining(**config["base"]), seed, tell)
    names = (OLD, *config["domains"])
    domains = [texts(config, name, base, seed) for name in names]
    known = domains[0].read[:KNOWN]
    sizes = Cut(config["segment"], config["window"])
    method = CONTENDERS[config["method"]].build(Place(base, known, sizes, seed), dict(setting))
    matrix = [[bits(method, base, domain.test) for domain in domains]]
    for domain in domains[1:]:
        for ids in domain.read:
            method.read(ids)
        method.end_task()
        matrix.append([bits(method, base, d.test) for d in domains])
    validation = sum(bits(method, base, domain.validation) for domain in domains) / len(domains)
    return {"matrix": matrix, "validation": validation, "updates": method.updates}


def summary(matrix: Sequence[Sequence[float]]) -> dict[str, float]:
    """Figures of one run; see the study's page for their meaning."""
    last = len(matrix) - 1
    new = range(1, last + 1)
    mean = {
        "gain": [matrix[i - 1][i] - matrix[i][i] for i in new],
        "backward": [matrix[last][i] - matrix[i][i] for i in range(1, last)],
        "forward": [matrix[0][i] - matrix[i - 1][i] for i in range(2, last + 1)],
    }
    return {
        "final": sum(matrix[last]) / len(matrix[last]),
        "old_rise": matrix[last][0] / matrix[0][0] - 1,
        **{key: sum(values) / len(values) if values else 0.0 for key, values in mean.items()},
    }


def full_gain(figures: Mapping[str, Mapping[str, dict[str, float]]]) -> float | None:
    """Mean gain of full fine-tuning; None while it is not there."""
    if "fine-tuning" not in figures:
        return None
    return interval([s["gain"] for s in figures["fine-tuning"].values()]).mean
