"""How much of a short text that was read once is known in a new process."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nestling.core.result import Result
from nestling.report import Section, Table
from nestling_lab.studies.answers import NOTHING
from nestling_lab.studies.continual.commands import adapted, ask, learn
from nestling_lab.studies.continual.told_texts import right, told_texts
from nestling_lab.studies.study import Cell, Finding, Study, Tell, silent

WAYS = {
    "studied": "read by `nestling learn`, asked in a new process",
    "nothing": "nothing read",
    "chat": "the text before the question, in chat",
    "shots": "the text before the question, with two worked examples",
}
TITLES = {
    "studied": "studied",
    "unchecked": "unchecked",
    "nothing": "nothing read",
    "chat": "in chat",
    "shots": "two examples",
}
LIMIT = 0.02  # maximum relative increase of the loss of known text


class ToldStudy(Study):
    """Each text with the default commands, one memory per text."""

    name = "told"
    question = "how many of six plain questions about a short text are answered once it was read"
    source = "told.toml"
    wording = "in other words"
    after = (
        "after it nothing was changed but a fault that had ended `learn` for one of them. Later "
        "forms of study knew which replies were wrong here: `told-again` has texts that they did "
        "not."
    )

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Sizes of the study."""

        model: str = "smollm2-135m-instruct"
        texts: tuple[str, ...] = ()  # empty: all in the file of the study

    def __init__(self, config: Config | None = None):
        given = config or ToldStudy.Config()
        self.config = replace(given, texts=given.texts or tuple(told_texts(self.source)))

    def cells(self, done: Mapping[str, Result]) -> list[Cell]:
        """One cell per text, with a single seed."""
        texts = told_texts()
        return [
            Cell(name, {"model": self.config.model, "text": texts[name].text}, 0)
            for name in self.config.texts
        ]

    def run(self, cell: Cell, *, tell: Tell = silent, device: str = "cpu") -> Result:
        """Adapt, learn and ask, in three processes."""
        one = told_texts()[cell.name]
        model, questions = adapted(cell.config["model"]), [asked for asked, _ in one.questions]
        with tempfile.TemporaryDirectory() as folder:
            memory = Path(folder) / "memory"
            learned = learn(model, one.text, memory, device=device)
            said = ask(model, memory, one.text, questions, tuple(WAYS))
        study = learned["study"]
        metrics: dict[str, Any] = {
            "words": len(one.text.split()),
            "asked": [list(pair) for pair in one.questions],
            "said": said,
            "right": {way: sum(one.right(replies)) for way, replies in said.items()},
            "of": len(one.questions),
            "known": study["known_after"] / study["known_before"] - 1,
            **learned,
        }
        name = f"{self.name}/{cell.name}"
        return Result(name=name, config=cell.config, metrics=metrics, seed=cell.seed)

    def find(self, done: Mapping[str, Result]) -> Finding:
        """The right answers by text and by way, and the costs."""
        runs = {name: done[name].metrics for name in self.config.texts if name in done}
        total = {way: sum(run["right"][way] for run in runs.values()) for way in WAYS}
        asked = sum(run["of"] for run in runs.values())
        metrics = {"texts": len(runs), "asked": asked, "right": total}
        rows = [(what, f"{total[way]} of {asked}") for way, what in WAYS.items()]
        table = Table(columns=("way", "answered right"), rows=rows)
        sections = [
            Section("Method", self._about()),
            Section("Text by text", outcome(runs), text_tables(runs) if runs else []),
            Section("Every reply after study", tables=[replies_table(runs)] if runs else []),
        ]
        shown = Section("In short", tables=[table] if runs else [])
        return Finding(metrics, sections, answer(total, asked), shown)

    def _about(self) -> str:
        return (
            f"{self.config.model} reads each text by `nestling adapt` and `nestling learn` without "
            f"further options, and six questions {self.wording} are asked, greedy, at most 40 "
            "tokens. A reply is right if it holds one of the accepted values. "
            f"Texts and questions (`lab/nestling_lab/studies/continual/{self.source}`) were "
            f"written before the first run; {self.after} One seed, one run each: a question more "
            "or less says nothing."
        )


class ToldAgainStudy(ToldStudy):
    """Ten further texts, for a form of study developed with knowledge of the first replies."""

    name = "told-again"
    source = "told_again.toml"
    after = "after it nothing was changed. Replies were not checked yet: see `told-checked`."


def answer(total: Mapping[str, int], asked: int) -> str:
    """How many questions are answered right once the text was read, and otherwise."""
    if not asked:
        return NOTHING
    return (
        f"Of {asked} questions {total['studied']} are answered right once the text was studied "
        f"and is gone, {total['chat']} with the text in chat and {total['nothing'] or 'none'} if "
        "nothing was read."
    )


def outcome(runs: Mapping[str, Any]) -> str:
    """How many texts are known, what the base forgets, and what learning costs."""
    if not runs:
        return ""
    best = sum(run["right"]["studied"] >= 5 for run in runs.values())
    known = [run["known"] for run in runs.values()]
    cost = sorted(run["cpu_seconds"] for run in runs.values())
    kept = sum(rise <= LIMIT for rise in known)
    return (
        f"Five or six of six are right for {best} of {len(runs)} texts. The "
        f"loss of text that the base wrote moves by {min(known):+.1%} to {max(known):+.1%}, by at "
        f"most {LIMIT:+.0%} for {kept} of {len(runs)}. `learn` takes {cost[0]:.0f} to "
        f"{cost[-1]:.0f} CPU seconds."
    )


def text_tables(runs: Mapping[str, Any]) -> list[Table]:
    """The right answers of each text by way, and what learning it cost and changed."""
    ways = [way for way in TITLES if any(way in run["right"] for run in runs.values())]
    rights = [
        (name, run["words"], *(f"{run['right'][way]} of {run['of']}" for way in ways))
        for name, run in runs.items()
    ]
    costs = [
        (
            name,
            f"{run['study']['right_after']:.0f} of {run['study']['asked']:.0f}",
            f"{run['known']:+.1%}",
            round(run["cpu_seconds"]),
            f"{run['bytes'] / 1e6:.2f}",
        )
        for name, run in runs.items()
    ]
    heads = (TITLES[way] for way in ways)
    return [
        Table(columns=("text", "words", *heads), rows=rights),
        Table(columns=("text", "its own questions", "known text", "CPU s", "MB"), rows=costs),
    ]


def replies_table(runs: Mapping[str, Any]) -> Table:
    """A table of every question about a text, with the reply after study."""
    rows = []
    for name, run in runs.items():
        for (asked, accept), reply in zip(run["asked"], run["said"]["studied"], strict=True):
            mark = "right" if right(reply, accept) else "wrong"
            rows.append((name, asked, " ".join(reply.split()), mark))
    return Table(columns=("text", "question", "reply", ""), rows=rows)
