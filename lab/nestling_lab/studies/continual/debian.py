"""Real text: what of a package's long description is known once it was studied."""

import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch

from nestling.continual.learner import ContinualLearner
from nestling.continual.opening import open_learner
from nestling.continual.study.words import telling
from nestling.core.result import Result, provenance
from nestling.core.statistics import interval, wilson
from nestling.data.sets import Described, load_set
from nestling.report import Section, Table
from nestling_lab.studies.answers import NOTHING, counted
from nestling_lab.studies.continual.asked_anew import after_shots, in_chat
from nestling_lab.studies.continual.commands import adapted
from nestling_lab.studies.study import Cell, Finding, Study, Tell, silent

SET = "packages"
CHOICES = 4
TOKENS = 60  # of a reply, at most
WAYS = {
    "nothing": "nothing read (control)",
    "chat": "the description before the question, in chat",
    "shots": "the same, after two worked examples",
    "studied": "studied, asked with the text gone",
}


class Package(NamedTuple):
    """A package to study, and the lines that its own is to be told from."""

    text: str  # title and long description
    question: str
    lines: tuple[str, ...]  # short descriptions, its own first
    section: str
    name: str


class DebianPackages(Study):
    """Packages studied one after another into one memory, asked about after the last."""

    name = "debian-packages"
    question = "is a real text known once it was studied: what a Debian package is for"

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Sizes of the study."""

        model: str = "smollm2-135m-instruct"
        seeds: tuple[int, ...] = (3, 4, 5)  # of the draw of packages; the method has seen 0 to 2
        packages: int = 8  # per memory, of different sections

    def __init__(self, config: Config | None = None):
        self.config = config or DebianPackages.Config()

    def cells(self, done: Mapping[str, Result]) -> list[Cell]:
        """One memory per seed."""
        config = asdict(self.config)
        seeds = config.pop("seeds")
        return [Cell(f"seed{seed}", config, seed) for seed in seeds]

    def run(self, cell: Cell, *, tell: Tell = silent, device: str = "cpu") -> Result:
        """Ask in each way; study comes last."""
        records = load_set(SET)
        learner = open_learner(adapted(cell.config["model"]), device=device)
        packages = drawn(records.rows, cell.seed, cell.config["packages"])
        return Result(
            name=f"{self.name}/{cell.name}",
            config=cell.config,
            metrics=measured(learner, packages, tell),
            seed=cell.seed,
            corpus=records.tag,
            provenance=provenance(device),
        )

    def find(self, done: Mapping[str, Result]) -> Finding:
        """The right choices and the words said, by way."""
        runs = [done[cell.name].metrics for cell in self.cells(done) if cell.name in done]
        return _report(self.config, runs)


def drawn(rows: Sequence[Described], seed: int, count: int) -> list[Package]:
    """Packages of different sections, each with the lines of three others of its section."""
    rng = random.Random(f"packages:{seed}")
    groups: dict[str, list[Described]] = {}
    for row in rows:
        groups.setdefault(row.section, []).append(row)
    found = []
    for section in rng.sample(sorted(groups), min(count, len(groups))):
        own, *others = rng.sample(groups[section], CHOICES)
        found.append(
            Package(
                f"The package {own.name}\n\n{own.text}",
                f"What is the package {own.name} for?",
                (own.line, *(other.line for other in others)),
                section,
                own.name,
            )
        )
    return found


def measured(
    learner: ContinualLearner, packages: Sequence[Package], tell: Tell = silent
) -> dict[str, Any]:
    """For each way and package: the margin of its own line, and the reply."""
    found: dict[str, Any] = {
        way: [_answered(learner, one, way) for one in packages] for way in WAYS if way != "studied"
    }
    begin = time.process_time()
    for number, one in enumerate(packages):
        learner.read(one.text, name=one.name)
        [studied] = learner.study()
        tell(number + 1, len(packages), studied.figures["known_after"])
    seconds = (time.process_time() - begin) / len(packages)
    found["studied"] = [_answered(learner, one, "studied") for one in packages]
    own = [one.figures for one in learner.state.studied]
    return {
        "answers": found,
        "packages": [[one.name, one.section, one.question, one.lines[0]] for one in packages],
        "own": [[figures["known_before"], figures["known_after"]] for figures in own],
        "seconds": seconds,
    }


@torch.no_grad()
def _answered(learner: ContinualLearner, one: Package, way: str) -> list[Any]:
    """[margin of its own line over the best other, nats per character; reply]."""
    school, text = learner.school, learner.text
    speaker, weights = school.speaker, learner.weights_for(one.question)
    if way == "shots":
        made = after_shots(learner, " ".join(one.text.split()), [one.question])
    else:
        made = in_chat(learner, one.text if way == "chat" else "", [one.question])
    opening, talk, [prompt] = made
    read = speaker.told(opening, weights)
    pairs = [(prompt, talk.answer(line)) for line in one.lines]
    scores = speaker.scores(read, pairs, weights)
    each = [
        float(score.nats.sum()) / len(line) for score, line in zip(scores, one.lines, strict=True)
    ]
    if way == "studied":
        said = learner.ask(one.question, tokens=TOKENS)
    else:
        [ids] = speaker.said(read, [prompt], most=TOKENS, stop=talk.stop, weights=weights)
        said = text.decode(ids).strip()
    return [each[0] - max(each[1:]), said]


def overlap(line: str, reply: str, name: str) -> float:
    """The share of the content words of a line, without the name, that are in a reply.

    >>> overlap("tool to compare two files", "It compares files.", "docdiff")
    0.25
    """
    wanted = {*telling(line)} - {name.lower()}
    return len(wanted.intersection(telling(reply))) / len(wanted) if wanted else 0.0


Run = Mapping[str, Any]


def _report(config: DebianPackages.Config, runs: Sequence[Run]) -> Finding:
    metrics = {way: _figures(runs, way) for way in WAYS} if runs else {}
    rows = []
    for way, what in WAYS.items() if runs else ():
        right, of = metrics[way]["right"], metrics[way]["of"]
        words = interval([100 * x for x in metrics[way]["words"]])
        rows.append((what, counted(right, of), f"{words} %"))
    tables = [Table(columns=("way", "own line chosen", "words of it said"), rows=rows)]
    sections = [Section("Method", _about(config))]
    if runs:
        rise = interval([100 * (a / b - 1) for run in runs for b, a in run["own"]])
        cost = interval([run["seconds"] for run in runs])
        sections += [
            Section(
                "Cost",
                f"A description takes {cost} CPU seconds to study; the loss of text that the base "
                f"wrote changes by {rise} % while one is used.",
            ),
            Section("Every reply", tables=[_replies(runs)]),
        ]
    shown = Section("In short", tables=tables if runs else [])
    return Finding(metrics, sections, _answer(metrics), shown)


def _figures(runs: Sequence[Run], way: str) -> dict[str, Any]:
    margins = [margin for run in runs for margin, _ in run["answers"][way]]
    words = [
        sum(
            overlap(line, said, name)
            for (name, _, _, line), (_, said) in zip(
                run["packages"], run["answers"][way], strict=True
            )
        )
        / len(run["packages"])
        for run in runs
    ]
    return {"right": sum(margin > 0 for margin in margins), "of": len(margins), "words": words}


def _replies(runs: Sequence[Run]) -> Table:
    rows = [
        (name, line, *(" ".join(run["answers"][way][number][1].split()) for way in WAYS))
        for run in runs
        for number, (name, _, _, line) in enumerate(run["packages"])
    ]
    return Table(columns=("package", "its line", *WAYS.values()), rows=rows)


def _about(config: DebianPackages.Config) -> str:
    return (
        f"{config.model} reads the long descriptions of {config.packages} Debian packages, one of "
        "each of as many sections (`nestling data fetch packages`: 50 to 90 words of prose, whose "
        "short description is no part of the long one), studies them with the defaults of "
        "`nestling learn` one after another into one memory, and is asked about each with an empty "
        'context: "What is the package X for?". *Own line chosen*: of four short descriptions of '
        "its section its own is the likeliest reply, per character (chance 0.25; the control shows "
        "what was known, and what a name gives away). *Words of it said*: the share of the content "
        "words of its short description that are in the reply. Intervals of shares are Wilson's, "
        "over packages; the others are Student's, over memories. Text of the packages: licences of "
        "the packages, free in Debian's sense."
    )


def _answer(metrics: Mapping[str, Any]) -> str:
    if not metrics:
        return NOTHING
    shares = {way: found["right"] / found["of"] for way, found in metrics.items()}
    words = {way: sum(found["words"]) / len(found["words"]) for way, found in metrics.items()}
    low, _ = wilson(metrics["studied"]["right"], metrics["studied"]["of"])
    _, high = wilson(metrics["nothing"]["right"], metrics["nothing"]["of"])
    head = "Yes" if low > high else "Not significantly"
    return (
        f"{head}: after study {shares['studied']:.0%} of the packages are told from "
        f"three others by their short description and {words['studied']:.0%} of its words are "
        f"said ({shares['nothing']:.0%} and {words['nothing']:.0%} with nothing read, "
        f"{shares['shots']:.0%} and {words['shots']:.0%} with the text before the question after "
        "two worked examples)."
    )
