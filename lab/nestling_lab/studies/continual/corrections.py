"""Short texts, each corrected by a later notice: what is answered of both, and of neither."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nestling.core.result import Result
from nestling.core.statistics import wilson
from nestling.report import Section, Table
from nestling_lab.studies.answers import NOTHING
from nestling_lab.studies.continual.commands import adapted, ask, learn
from nestling_lab.studies.continual.manual_report import SHORT, WAYS
from nestling_lab.studies.continual.manual_texts import Manual, manual_texts
from nestling_lab.studies.continual.manuals import Manuals
from nestling_lab.studies.study import Cell, Finding, Tell, silent

LATER = "after the correction"
# title -> stage (0: the text was read, 1: its correction too) and kind of question
COUNTS = {
    "the text": (0, "questions"),
    "not said": (0, "unanswerable"),
    f"the text, {LATER}": (1, "questions"),
    f"not said, {LATER}": (1, "unanswerable"),
    "corrected facts": (1, "changed"),
    "added facts": (1, "added"),
}
ABOUT = "-about"  # ends the name of a cell whose notice is learned with its subject given
Runs = Mapping[str, Mapping[str, Any]]


class Corrections(Manuals):
    """Short texts, each with a notice that changes two of its facts and adds one."""

    name = "corrections"
    question = "does a short correction win, and is all else of a text still answered after it"
    source = "corrections.toml"
    ways = tuple(way for way in WAYS if way != "found")
    named = (
        "Where the subject of the notice is given, it is learned with `--about text.txt`, the name "
        "of the text."
    )

    def cells(self, done: Mapping[str, Result]) -> list[Cell]:
        """One cell per text and its notice, then the same with the subject of the notice given.

        Only the former if the subject is always given.
        """
        own = super().cells(done)
        given = (
            []
            if self.about
            else [Cell(f"{one.name}{ABOUT}", one.config | {"about": True}, 0) for one in own]
        )
        return [*own, *given]

    def run(self, cell: Cell, *, tell: Tell = silent, device: str = "cpu") -> Result:
        """Learn the text, then the notice, and ask."""
        if not cell.name.endswith(ABOUT):
            return super().run(cell, tell=tell, device=device)
        one = manual_texts(self.source)[cell.name.removesuffix(ABOUT)]
        model, questions = adapted(cell.config["model"]), [asked.ask for asked in one.asked]
        with tempfile.TemporaryDirectory() as folder:
            memory = Path(folder) / "memory"
            first = learn(model, one.text, memory, name="text.txt", device=device)
            tell(1, 2, 0.0)
            notice = {"name": "correction.txt", "about": "text.txt"}
            second = learn(model, one.correction, memory, **notice, device=device)
            said = ask(model, memory, one.text, questions, ["studied"])
        metrics = {"said": said["studied"], "stages": [first, second]}
        name = f"{self.name}/{cell.name}"
        return Result(name=name, config=cell.config, metrics=metrics, seed=cell.seed)

    def find(self, done: Mapping[str, Result]) -> Finding:
        """The replies that are as they should be, by reader and kind of question."""
        texts = manual_texts(self.source)
        runs = {name: done[name].metrics for name in self.config.texts if name in done}
        about = [name for name in self.config.texts if f"{name}{ABOUT}" in done]
        given = {
            title: [
                mark
                for name in about
                for mark in texts[name].scores(done[f"{name}{ABOUT}"].metrics["said"])[kind]
            ]
            for title, (stage, kind) in COUNTS.items()
            if stage
        }
        found = {
            way: {
                title: [mark for n, run in runs.items() for mark in _marks(texts[n], run, way, *of)]
                for title, of in COUNTS.items()
            }
            for way in self.ways
        }
        metrics = {
            way: {title: [sum(own), len(own)] for title, own in counts.items()}
            for way, counts in found.items()
        }
        metrics["about"] = {title: [sum(own), len(own)] for title, own in given.items()}
        rows = [(SHORT[way], *map(_count, found[way].values())) for way in self.ways]
        if about:
            counts = (_count(given.get(title, [])) for title in COUNTS)
            rows.insert(1, ("studied, subject of the notice given", *counts))
        table = Table(columns=("reader", *COUNTS), rows=rows)
        sections = [
            Section("Method", self._about(texts)),
            Section("Text by text", COST, [_costs(texts, runs)] if runs else []),
            Section(
                "Every reply after study", tables=[_replies(texts, runs, done)] if runs else []
            ),
        ]
        shown = Section("In short", SHOWN, [table] if runs else [])
        return Finding(metrics, sections, _answer(found["studied"], given), shown)

    def _about(self, texts: Mapping[str, Manual]) -> str:
        words = [len(one.text.split()) for one in texts.values()]
        later = [len(one.correction.split()) for one in texts.values()]
        return (
            f"{self.config.model} reads each text ({min(words)} to {max(words)} words) by "
            "`nestling adapt` and `nestling learn` without further options and is asked all "
            f"questions in a new process; then it reads a notice ({min(later)} to {max(later)} "
            "words) into the same memory file and is asked again. A notice changes two facts of "
            "its text and adds "
            "one. Greedy, at most 40 tokens. A reply is right if, of all values that are right or "
            "wrong, it names a right one first; to a question that neither text answers, if it "
            f"has no value of that kind. Compared: {'; '.join(WAYS[way] for way in self.ways)}; "
            f"those with the text have the notice after it. {self.named} Texts and "
            f"questions (`lab/nestling_lab/studies/continual/{self.source}`) were written before "
            "the first run; their writer knew nothing of how they are studied. One run each."
        )


class Notices(Corrections):
    """The same with other texts, and the subject of each notice given when it is learned."""

    name = "notices"
    question = "does a short correction win if it is said which text it is about"
    source = "notices.toml"
    about = "text.txt"
    named = "A notice is learned with `--about text.txt`, the name of its text."


SHOWN = (
    "Replies as they should be, by what is asked for: facts of the text that the notice leaves as "
    "they are, what neither says, and what the notice changes and adds. Intervals are Wilson's, "
    "over questions, which share texts."
)
COST = (
    "Right replies after study before / after the notice, sentences recited of both, the loss of "
    "text that the base wrote while each is used, and CPU seconds of both."
)


def _stage(run: Mapping[str, Any], way: str, stage: int) -> list[str]:
    """The replies of a reader; one that reads nothing is asked once."""
    stages = run["stages"]
    return stages[stage if way in stages[stage]["said"] else 0]["said"][way]


def _marks(one: Manual, run: Mapping[str, Any], way: str, stage: int, kind: str) -> list[bool]:
    return one.scores(_stage(run, way, stage))[kind]


def _count(found: Sequence[bool]) -> str:
    low, high = wilson(sum(found), len(found)) if found else (0.0, 1.0)
    return f"{sum(found)} of {len(found)} ({low:.2f} to {high:.2f})" if found else "-"


def _answer(found: Mapping[str, Sequence[bool]], given: Mapping[str, Sequence[bool]]) -> str:
    counts = {title: f"{sum(own)} of {len(own)}" for title, own in found.items()}
    if not found["corrected facts"]:
        return NOTHING
    return (
        f"Once both texts are gone {counts['corrected facts']} corrected facts are answered with "
        f"their new value and {counts['added facts']} that the notice adds; of the rest of the "
        f"texts {counts[f'the text, {LATER}']} questions are answered rightly, "
        f"{sum(found['the text'])} before the notice{_given(given)}."
    )


def _given(given: Mapping[str, Sequence[bool]]) -> str:
    if not given["corrected facts"]:
        return ""
    counts = {title: f"{sum(own)} of {len(own)}" for title, own in given.items()}
    return (
        f"; with the subject of the notice given (`--about`) {counts['corrected facts']}, "
        f"{counts['added facts']} and {counts[f'the text, {LATER}']}"
    )


def _costs(texts: Mapping[str, Manual], runs: Runs) -> Table:
    rows = []
    for name, run in runs.items():
        right = [
            sum(sum(_marks(texts[name], run, "studied", stage, kind)) for kind in kinds)
            for stage, kinds in ((0, ("questions",)), (1, ("questions", "changed", "added")))
        ]
        studies = [stage["study"] for stage in run["stages"]]
        rows.append(
            (
                name,
                run["words"],
                f"{right[0]} of 4, {right[1]} of 7",
                ", ".join(f"{one['recited']:.0f} of {one['sentences']:.0f}" for one in studies),
                ", ".join(f"{rise:+.1%}" for rise in run["known"]),
                ", ".join(f"{stage['cpu_seconds']:.0f}" for stage in run["stages"]),
            )
        )
    return Table(columns=("text", "words", "right", "recited", "known text", "CPU s"), rows=rows)


def _replies(texts: Mapping[str, Manual], runs: Runs, done: Mapping[str, Result]) -> Table:
    rows, given = [], any(name.endswith(ABOUT) for name in done)
    for name, run in runs.items():
        one = texts[name]
        cells = [_marked(one, _stage(run, "studied", stage), stage) for stage in (0, 1)]
        if given:
            own = done.get(f"{name}{ABOUT}")
            cells.append(_marked(one, own.metrics["said"], 1) if own else [""] * len(one.asked))
        asked = [each.ask for each in one.asked]
        rows += [(name, *row) for row in zip(asked, *cells, strict=True)]
    columns = ("text", "question", "after the text", LATER, *["its subject given"] * given)
    return Table(columns=columns, rows=rows)


def _marked(one: Manual, replies: Sequence[str], stage: int) -> list[str]:
    """Replies, marked as right (+) or wrong (-) where the texts read so far tell."""
    open_facts = () if stage else ("changed", "added")
    marks = [
        "" if kind in open_facts else "+ " if passed else "- "
        for kind, own in one.scores(replies).items()
        for passed in own
    ]
    pairs = zip(marks, replies, strict=True)
    return [f"{mark}{' '.join(reply.split())}" for mark, reply in pairs]
