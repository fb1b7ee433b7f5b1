"""What each part of self-study is worth: a few documents studied with a part off or changed."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import fmean
from typing import Any, NamedTuple

from nestling.continual.learner import ContinualLearner
from nestling.continual.opening import open_learner
from nestling.continual.study.plan import Plan
from nestling.core.error import UserError, did_you_mean
from nestling.core.result import Result, provenance
from nestling.core.statistics import interval
from nestling.data import load_corpus
from nestling.report import Section, Table
from nestling_lab.studies.answers import NOTHING, counted, listed
from nestling_lab.studies.continual.commands import adapted
from nestling_lab.studies.continual.facts import KNOWN
from nestling_lab.studies.continual.many_asked import facts, loss_with, margins, replies
from nestling_lab.studies.study import Cell, Finding, Study, Tell, silent

DRAWN = 2000  # added to a seed, so that no other study asks about these documents


class Part(NamedTuple):
    """A variant of self-study: a part off or changed."""

    title: str
    plan: Mapping[str, Any] = {}  # fields of Plan that differ from the default
    layers: str | None = None  # that are written; None: the default


MAKERS = Plan().makers
PARTS = {
    "default": Part("as it is"),
    "sentences": Part(
        "sentences alone, one question", {"makers": ("gist",), "replies": 1, "lines": 12}
    ),
    "no-lines": Part("questions alone, no sentences", {"lines": 0}),
    "no-keyed": Part(
        "no questions of key words", {"makers": tuple(m for m in MAKERS if m != "keyed")}
    ),
    "no-kinds": Part(
        "no questions with kinds of things", {"makers": tuple(m for m in MAKERS if m != "kinds")}
    ),
    "no-judge": Part("questions not judged", {"judge": False}),
    "no-near": Part("no near questions", {"near": 0}),
    "no-own": Part("no text of the base", {"own": 0}),
    "nothing-kept": Part("neither of the two: plain fine-tuning", {"near": 0, "own": 0}),
    "no-aim": Part("directions drawn at random", {"aim": False}),
    "rank-4": Part("rank 4", {"rank": 4}),
    "rank-64": Part("rank 64", {"rank": 64}),
    "half-rounds": Part("half the writes", {"rounds": 19}),
    "all-layers": Part("all layers written", layers="0-29"),
    "top-layers": Part("the upper six layers written", layers="24-29"),
}


class StudyParts(Study):
    """Documents of made-up facts, studied once for every variant."""

    name = "study-parts"
    question = "which parts of self-study make a text known, and which keep what was known before"

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Sizes of the study."""

        model: str = "smollm2-135m-instruct"
        parts: tuple[str, ...] = tuple(PARTS)
        seeds: tuple[int, ...] = (0, 1, 2)  # of the documents
        documents: int = 1
        probe: int = 2048  # characters of held-out documentation

        def __post_init__(self) -> None:
            for name in self.parts:
                if name not in PARTS:
                    raise UserError(f"unknown part {name!r}: {did_you_mean(name, PARTS)}")

    def __init__(self, config: Config | None = None):
        self.config = config or StudyParts.Config()

    def cells(self, done: Mapping[str, Result]) -> list[Cell]:
        """Every variant with the first seed, then the other seeds."""
        config = asdict(self.config)
        parts, seeds = config.pop("parts"), config.pop("seeds")
        return [
            Cell(f"{name}-seed{seed}", config | _settings(PARTS[name]), seed)
            for seed in seeds
            for name in parts
        ]

    def run(self, cell: Cell, *, tell: Tell = silent, device: str = "cpu") -> Result:
        """Study all documents, then ask about each of them."""
        layers = cell.config["layers"]
        model = adapted(cell.config["model"], *(("--layers", layers) if layers else ()))
        learner = open_learner(model, device=device)
        return Result(
            name=f"{self.name}/{cell.name}",
            config=cell.config,
            metrics=measured(learner, cell.config, cell.seed, tell),
            seed=cell.seed,
            corpus=load_corpus(KNOWN).tag,
            provenance=provenance(device),
        )

    def find(self, done: Mapping[str, Result]) -> Finding:
        """The figures of each variant, over the seeds that are done."""
        found = {
            name: [
                done[f"{name}-seed{seed}"].metrics
                for seed in self.config.seeds
                if f"{name}-seed{seed}" in done
            ]
            for name in self.config.parts
        }
        return _report(self.config, {name: runs for name, runs in found.items() if runs})


def _settings(part: Part) -> dict[str, Any]:
    plan = {k: list(v) if isinstance(v, tuple) else v for k, v in part.plan.items()}
    return {"plan": plan, "layers": part.layers}


def measured(
    learner: ContinualLearner, config: Mapping[str, Any], seed: int, tell: Tell = silent
) -> dict[str, Any]:
    """Replies and margins after all documents, the losses of known text, and the cost."""
    changed = {k: tuple(v) if isinstance(v, list) else v for k, v in config["plan"].items()}
    plan = replace(Plan(rank=learner.rank), **changed)
    texts = [facts(DRAWN + seed, number) for number in range(config["documents"])]
    probe = "\n".join(load_corpus(KNOWN).held_out)[: config["probe"]]
    seconds = []
    for number, (text, _) in enumerate(texts):
        begin = time.process_time()
        learner.read(text, name=f"document {number}")
        learner.study(plan)
        seconds.append(time.process_time() - begin)
        tell(number + 1, len(texts) + 1, learner.state.studied[-1].figures["known_after"])
    asked = [fact for _, own in texts for fact in own]
    studied = learner.state.studied
    return {
        "replies": replies(learner, asked),
        "unchecked": replies(learner, asked, check=False),
        "strangers": replies(learner, asked, strange=True, check=False),
        "margins": margins(learner, asked),
        "recited": [[one.figures["recited"], one.figures["sentences"]] for one in studied]
        if learner.talks
        else [],
        "own": [[one.figures["known_before"], one.figures["known_after"]] for one in studied],
        "known": [
            [loss_with(learner, probe, weights) for weights in (learner.weights(studied=()), own)]
            for own in map(learner.weights_of, studied)
        ],
        "seconds": seconds,
        "questions": [len(one.questions) for one in studied],
    }


Runs = Sequence[Mapping[str, Any]]


def _report(config: StudyParts.Config, found: Mapping[str, Runs]) -> Finding:
    metrics = {name: _figures(runs) for name, runs in found.items()}
    rows = [_row(PARTS[name].title, runs) for name, runs in found.items()]
    columns = (
        "self-study", "right in chat", "unchecked", "likeliest of four",
        "stranger gets the value", "text of the base", "documentation", "CPU s",
    )  # fmt: skip
    tables = [Table(columns=columns, rows=rows)] if rows else []
    shown = Section("In short", _KEY if rows else "", tables)
    return Finding(metrics, [Section("Method", _about(config))], _answer(metrics), shown)


def _figures(runs: Runs) -> dict[str, Any]:
    every = {
        name: [one[-1] for run in runs for one in run[name]]
        for name in ("replies", "unchecked", "strangers")
    }
    every["likeliest"] = [margin > 0 for run in runs for margin in run["margins"]]
    counts = {name: sum(values) for name, values in every.items()}
    return {
        **counts,
        "asked": len(every["replies"]),
        **{
            name: [fmean(after / before - 1 for before, after in run[name]) for run in runs]
            for name in ("own", "known")
        },
        "seconds": [sum(run["seconds"]) / len(run["seconds"]) for run in runs],
    }


def _row(title: str, runs: Runs) -> tuple[str, ...]:
    found = _figures(runs)
    shares = [
        counted(found[name], found["asked"])
        for name in ("replies", "unchecked", "likeliest", "strangers")
    ]
    rises = [f"{interval([100 * x for x in found[name]])} %" for name in ("own", "known")]
    return (title, *shares, *rises, str(interval(found["seconds"])))


_KEY = (
    "*Right in chat*: the reply of `nestling ask` holds the value; *unchecked*: that of `ask "
    "--no-check`; *likeliest of four*: the sentence of the text is likelier than with three "
    "other values; *stranger gets the value*: an unchecked reply about somebody in no document "
    "holds the value (less is better); then the change of two losses of known text while the "
    "document is used, and the cost of a document."
)


def _about(config: StudyParts.Config) -> str:
    return (
        f"{config.model} studies {config.documents} document{'s' * (config.documents > 1)} of six "
        "made-up facts (`nestling/tasks/facts.py`) for each seed, and is asked for every fact. "
        "Each row changes one part of the default plan (`nestling/continual/study/plan.py`) and "
        "nothing else; documents are the same in all rows. *Text of the base*: passages that it "
        f"wrote itself, in no lesson; *documentation*: held-out text of Python's, {config.probe:,} "
        "characters. Intervals of shares are "
        "Wilson's, over questions, which share documents; the others are Student's, over seeds."
    )


def _answer(metrics: Mapping[str, Mapping[str, Any]]) -> str:
    if "default" not in metrics or len(metrics) < 2:
        return NOTHING

    def loss(name: str) -> float:
        one = metrics[name]
        return one["unchecked"] / one["asked"]

    def rise(name: str) -> float:
        return sum(metrics[name]["own"]) / len(metrics[name]["own"])

    others = [name for name in metrics if name != "default"]
    worst = sorted(others, key=loss)[:2]
    risen = sorted(others, key=lambda name: -rise(name))[:2]
    gone = listed(f"{PARTS[n].title} ({loss(n):.0%})" for n in worst)
    moved = listed(f"{PARTS[n].title} ({rise(n):+.1%})" for n in risen)
    return (
        f"After study as it is {loss('default'):.0%} of the facts are said unchecked, fewest with "
        f"{gone}; the loss of text that the base wrote changes by {rise('default'):+.1%}, most "
        f"with {moved}."
    )
