"""Short texts that were read once, asked about with every reply checked before it is given."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nestling.core.result import Result
from nestling.report import Section, Table
from nestling_lab.studies.continual.commands import adapted, ask, learn
from nestling_lab.studies.continual.told import (
    WAYS,
    ToldStudy,
    answer,
    outcome,
    replies_table,
    text_tables,
)
from nestling_lab.studies.continual.told_texts import GENERAL, Told, right, told_texts
from nestling_lab.studies.study import Cell, Finding, Tell, silent

ALL_WAYS = {
    "studied": WAYS["studied"],
    "unchecked": "the same, by `nestling ask --no-check`",
    **{way: said for way, said in WAYS.items() if way != "studied"},
}
WRITER = "their writer knew nothing of how they are studied."
KEPT = (
    "Three of the six general questions were also among those that study keeps answering as the "
    "base does; later forms of study have none of them."
)
OWN = ("studied", "unchecked", "nothing")  # ways that also get unanswerable questions


class ToldCheckedStudy(ToldStudy):
    """Ten further texts, also with unanswerable questions and with general knowledge."""

    name = "told-checked"
    source = "told_checked.toml"
    after = (
        f"{WRITER} {KEPT} After it nothing was changed. Later "
        "forms knew which replies were wrong here: `told-fresh` has texts that they did not."
    )

    def run(self, cell: Cell, *, tell: Tell = silent, device: str = "cpu") -> Result:
        """Adapt, learn and ask, in three processes."""
        one = told_texts()[cell.name]
        model = adapted(cell.config["model"])
        own = [asked for asked, _ in one.questions]
        further = [*one.unanswered, *(asked for asked, _ in GENERAL)]
        with tempfile.TemporaryDirectory() as folder:
            memory = Path(folder) / "memory"
            learned = learn(model, one.text, memory, device=device)
            said = ask(model, memory, one.text, own, tuple(ALL_WAYS))
            more = ask(model, memory, one.text, further, OWN)
        metrics = {"words": len(one.text.split()), **tallied(one, said, more), **learned}
        study = learned["study"]
        metrics["known"] = study["known_after"] / study["known_before"] - 1
        name = f"{self.name}/{cell.name}"
        return Result(name=name, config=cell.config, metrics=metrics, seed=cell.seed)

    def find(self, done: Mapping[str, Result]) -> Finding:
        """The right answers by text and by way, what is retained, and the costs."""
        runs = {name: done[name].metrics for name in self.config.texts if name in done}
        total = _totals(runs)
        metrics = {"texts": len(runs), **total}
        sections = [
            Section("Method", self._about()),
            Section("Text by text", outcome(runs), text_tables(runs) if runs else []),
            Section("Every reply after study", tables=[replies_table(runs)] if runs else []),
            Section("What the texts do not answer", tables=[_others(runs)] if runs else []),
        ]
        shown = Section("In short", tables=[_ways_table(runs)] if runs else [])
        return Finding(metrics, sections, answer(total["right"], total["asked"]), shown)


class ToldFreshStudy(ToldCheckedStudy):
    """Ten further texts, for answers that are recited from a memory's own questions."""

    name = "told-fresh"
    source = "told_fresh.toml"
    after = (
        f"{WRITER} {KEPT} After it, with the replies seen, two "
        "rules were changed, which are not in these figures: how sure a sentence must be to be "
        "said, and what a question plainly asks for. Later forms of study knew which replies were "
        "wrong here: `told-new` has texts that they did not."
    )


class ToldNewStudy(ToldCheckedStudy):
    """Ten further texts, some with headings and lists, for a form that takes care of them."""

    name = "told-new"
    source = "told_new.toml"
    after = (
        f"{WRITER} After it, with the replies seen, the "
        "study of lists, tables and texts without a title was changed, which is not in these "
        "figures. `told-plain` has texts that later forms did not know."
    )


class ToldPlainStudy(ToldCheckedStudy):
    """Ten further texts of all forms, with questions that are not reworded on purpose."""

    name = "told-plain"
    source = "told_plain.toml"
    wording = "in their owner's words, neither taken from the text nor made difficult,"
    after = (
        f"{WRITER} After it, with the replies seen, greetings and closes of letters are no longer "
        "sentences and a kind of text before a colon is no longer a subject, which is not in these "
        "figures."
    )


def tallied(
    one: Told, said: Mapping[str, list[str]], more: Mapping[str, list[str]]
) -> dict[str, Any]:
    """The replies, and how many of them are as they should be."""
    count = len(one.unanswered)
    quiet = {way: sum(one.quiet(more[way][:count])) for way in OWN}
    known = {}
    for way in OWN:
        pairs = zip(more[way][count:], GENERAL, strict=True)
        known[way] = sum(right(reply, accept) for reply, (_, accept) in pairs)
    return {
        "asked": [list(pair) for pair in one.questions],
        "said": said,
        "right": {way: sum(one.right(replies)) for way, replies in said.items()},
        "of": len(one.questions),
        "unanswered": {"asked": list(one.unanswered), "said": more, "quiet": quiet, "of": count},
        "general": {"right": known, "of": len(GENERAL)},
    }


def _totals(runs: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "asked": sum(run["of"] for run in runs.values()),
        "right": {way: sum(run["right"][way] for run in runs.values()) for way in ALL_WAYS},
        "quiet": {w: sum(run["unanswered"]["quiet"][w] for run in runs.values()) for w in OWN},
        "unanswered": sum(run["unanswered"]["of"] for run in runs.values()),
        "general": {w: sum(run["general"]["right"][w] for run in runs.values()) for w in OWN},
        "general_asked": sum(run["general"]["of"] for run in runs.values()),
    }


def _ways_table(runs: Mapping[str, Any]) -> Table:
    total = _totals(runs)
    rows: list[Sequence[Any]] = []
    for way, what in ALL_WAYS.items():
        quiet = f"{total['quiet'][way]} of {total['unanswered']}" if way in OWN else "-"
        general = f"{total['general'][way]} of {total['general_asked']}" if way in OWN else "-"
        rows.append((what, f"{total['right'][way]} of {total['asked']}", quiet, general))
    columns = (
        "way", "questions the text answers: right", "questions it does not: no value of it",
        "general questions: right",
    )  # fmt: skip
    return Table(columns=columns, rows=rows)


def _others(runs: Mapping[str, Any]) -> Table:
    rows = [
        (name, asked, *(" ".join(run["unanswered"]["said"][way][n].split()) for way in OWN[:2]))
        for name, run in runs.items()
        for n, asked in enumerate(run["unanswered"]["asked"])
    ]
    return Table(columns=("text", "question", "reply", "unchecked"), rows=rows)
