"""Five domains read one after the other: what is gained on each, what is lost on the others."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nestling.core.result import Result, provenance
from nestling.core.statistics import interval
from nestling.data import load_corpus
from nestling.report import Section, Table
from nestling.studies.continual.base import Pretraining
from nestling.studies.continual.contenders import CONTENDERS, EVERY, LARGE, NONE, STORES_TEXT
from nestling.studies.continual.journey import KNOWN, OLD, Matrix, travel
from nestling.studies.study import Cell, Finding, Study, Tell, silent

DOMAINS = ("anarchism", "stdlib-code", "kjv", "python-doc", "stdlib")
GATE_TITLES = {NONE: "", "base": ", gated with the base", "levels": ", gated over levels"}
FULL = ("fine-tuning", "large-fine-tuning")
COLUMNS = (
    "method", "stores text", "setting", "bits a byte at the end", "old domain, rise in %",
    "gain on a domain when read", "backward transfer", "forward transfer",
)  # fmt: skip


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
        base: Pretraining | str = field(  # or the name of a pretrained one, of any seed the same
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

    def cell(self, contender: str, setting: int, seed: int) -> Cell:
        """One journey of a method with one of its settings (its number)."""
        config = dataclasses.asdict(self.config)
        del config["contenders"], config["seeds"]
        chosen = EVERY[contender]
        config |= {
            "method": contender,
            "setting": dict(chosen.settings[setting]),
            "gates": list(chosen.gates),
        }
        return Cell(f"{contender}-{setting}-seed{seed}", config, seed)

    def grid(self, contender: str) -> list[Cell]:
        """Every setting of a method, with the first seed."""
        numbers = range(len(EVERY[contender].settings))
        return [self.cell(contender, number, self.config.seeds[0]) for number in numbers]

    def chosen(self, contender: str, done: Mapping[str, Result]) -> dict[str, int]:
        """The setting of least loss for each gate; none before every one has been tried."""
        grid = self.grid(contender)
        if any(cell.name not in done for cell in grid):
            return {}
        found = [done[cell.name].metrics for cell in grid]
        gates = EVERY[contender].gates
        return {gate: _best([metrics[gate]["validation"] for metrics in found]) for gate in gates}

    def cells(self, done: Mapping[str, Result]) -> list[Cell]:
        """The grid of every method, then what was chosen with the other seeds."""
        contenders, others = self.config.contenders, self.config.seeds[1:]
        return [cell for c in contenders for cell in self.grid(c)] + [
            self.cell(c, setting, seed)
            for c in contenders
            for setting in sorted(set(self.chosen(c, done).values()))
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

    def journeys(self, done: Mapping[str, Result]) -> dict[tuple[str, str], list[Matrix]]:
        """By method and gate the matrices of the chosen setting, of the seeds that are done."""
        found = {}
        for c in self.config.contenders:
            for gate, setting in self.chosen(c, done).items():
                names = [self.cell(c, setting, seed).name for seed in self.config.seeds]
                found[c, gate] = [done[n].metrics[gate]["matrix"] for n in names if n in done]
        return found

    def find(self, done: Mapping[str, Result]) -> Finding:
        """Final averages, forgetting and transfer of every method, and the matrix of each."""
        matrices = self.journeys(done)
        full = next((m for (c, g), m in matrices.items() if c in FULL and g == NONE), None)
        rows, shares, metrics = [], [], {}
        for (c, gate), parts in matrices.items():
            title = EVERY[c].title + GATE_TITLES[gate]
            setting = EVERY[c].settings[self.chosen(c, done)[gate]]
            own = figures(parts, full)
            metrics[c if gate == NONE else f"{c}, gate {gate}"] = {
                "setting": dict(setting),
                **{k: v if isinstance(v, list | None) else v.record() for k, v in own.items()},
            }
            rows.append(
                (
                    title,
                    "yes" if c in STORES_TEXT else "no",
                    ", ".join(f"{k} {v:g}" for k, v in setting.items()),
                    *(
                        str(own[key])
                        for key in ("final", "old_rise", "gain", "backward", "forward")
                    ),
                )
            )
            if own["shares"] is not None:
                least = min(own["shares"])
                shares.append(
                    (title, *(f"{100 * s:.0f} %" for s in own["shares"]), _both(own, least))
                )
        sections = [
            Section("What was asked", self._about()),
            Section("After the last domain", tables=[Table(columns=COLUMNS, rows=rows)]),
        ]
        if shares:
            columns = ("share of full fine-tuning's gain", *self.config.domains, "both targets")
            sections.append(
                Section(
                    "The targets", self._targets(), tables=[Table(columns=columns, rows=shares)]
                )
            )
        for (c, gate), parts in matrices.items():
            title = EVERY[c].title + GATE_TITLES[gate]
            sections.append(Section(title, tables=[self._matrix(parts)]))
        return Finding(metrics, sections)

    def _targets(self) -> str:
        return (
            "Two targets were set before: the old domain's loss rises by less than 1 %, and on "
            "each new domain at least half of full fine-tuning's gain is reached. Here a gain is "
            "the fall of a domain's loss from before anything was read to the end of that domain, "
            "a mean over seeds, and full fine-tuning is ungated at its own best setting."
        )

    def _matrix(self, matrices: Sequence[Matrix]) -> Table:
        names = (OLD, *self.config.domains)
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
            f"{_model(c.base)}; it then reads "
            f"{c.tokens:,} tokens each of {', '.join(c.domains)}, every token once, weights "
            f"written every {c.segment} tokens at the fastest, window {c.window}. Held-out text of "
            "every domain is scored before and after each; bits a byte, smaller is better. "
            f"Every method tries {len(self.grid(c.contenders[-1]))} settings with one seed; that "
            "of least average over all domains at the end, on other held-out text than is "
            "reported, is taken and goes on with the other seeds, for each gate by itself. Gated: "
            "where text is scored, the model of now is mixed with the model before anything was "
            "read, or with that and its slower levels alone, by what each gave "
            "to the text so far; reading is the same. Old domain: "
            "rise of its loss from first to last. Gain: fall of a domain's loss while it is read. "
            "Backward transfer: rise of a domain's loss from its own end to the end of all "
            "(positive: forgotten). Forward: fall before it is read. Mean and 95 % interval over "
            "seeds, which differ in the model and in the documents. Elastic weight consolidation "
            f"and rehearsal are given {KNOWN} documents of the old domain; rehearsal reads a "
            "stored segment for every new one, twice the reading of the others."
        )


class LargeDomains(Domains):
    """The same of SmolLM2-135M, whose own text is not at hand: ``web`` is one it is to keep."""

    name = "continual-domains-smollm2"
    question = "is it so of a large pretrained model, as far as few tokens show"

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


def _model(base: Pretraining | str) -> str:
    if isinstance(base, str):
        return f"{base} is as its makers left it, and {OLD} a text that it never reads here"
    return (
        f"A Llama of {base.layers} layers of {base.hidden_size} learns {OLD} ({base.steps} steps "
        f"of {base.batch_size} x {base.length} tokens)"
    )


def _best(losses: Sequence[float]) -> int:
    finite = [math.inf if math.isnan(loss) else loss for loss in losses]
    return finite.index(min(finite))


def summary(matrix: Matrix) -> dict[str, float]:
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
        "old_rise": 100 * (matrix[last][0] / matrix[0][0] - 1),
        **{key: sum(values) / len(values) if values else 0.0 for key, values in mean.items()},
    }


def figures(matrices: Sequence[Matrix], full: Sequence[Matrix] | None) -> dict[str, Any]:
    """Those of ``summary`` over runs, and for each domain the share of full fine-tuning's gain."""
    parts = [summary(matrix) for matrix in matrices]
    found: dict[str, Any] = {key: interval([part[key] for part in parts]) for key in parts[0]}
    gains = None if full is None else gained(full)
    shares = None if gains is None else zip(gained(matrices), gains, strict=True)
    return found | {"shares": shares and [own / whole for own, whole in shares]}


def gained(matrices: Sequence[Matrix]) -> list[float]:
    """How far each new domain's loss fell, mean over runs: from the first stage to its own."""
    return [
        sum(matrix[0][i] - matrix[i][i] for matrix in matrices) / len(matrices)
        for i in range(1, len(matrices[0]))
    ]


def _both(own: Mapping[str, Any], least: float) -> str:
    return "yes" if own["old_rise"].mean < 1 and least >= 0.5 else "no"
