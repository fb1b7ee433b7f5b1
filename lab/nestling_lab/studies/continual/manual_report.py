"""The report of the study ``manuals``: targets and outcome, tables, every reply."""

from collections.abc import Mapping, Sequence
from typing import Any

from nestling.core.statistics import Interval, interval
from nestling.report import Section, Table
from nestling_lab.studies.continual.manual_texts import Manual, manual_texts
from nestling_lab.studies.study import Finding

WAYS = {
    "studied": "read by `nestling learn`, asked in a new process",
    "nothing": "nothing read",
    "chat": "the text before the question, in chat",
    "shots": "the text before the question, with two worked examples",
    "found": "the three sentences that BM25 finds for the question, with two worked examples",
}
SHORT = {
    "studied": "studied",
    "nothing": "nothing read",
    "chat": "in chat",
    "shots": "two examples",
    "found": "BM25",
}
COUNTS = {
    "answered": "answered",
    "unanswerable": "unanswerable, no learned value",
    "old": "old value known before",
    "changed": "correction won",
    "unchanged": "unchanged kept",
    "again": "answered after the correction",
}
HALVES = {False: "set aside", True: "tuning"}
PAGE = 110  # tokens per page, for which one CPU minute is allowed
Run = Mapping[str, Any]
Runs = Mapping[str, Run]
Marks = dict[str, list[bool]]  # by what is counted


def marks(one: Manual, run: Run, way: str) -> Marks:
    """Whether each reply of a reader is as it should be, by criterion.

    A reader that reads nothing is asked once; its replies count before and after.
    """
    stages = run["stages"]
    first = stages[0]["said"][way]
    scores = one.scores(first)
    found = {"answered": scores["questions"], "unanswerable": scores["unanswerable"]}
    if one.correction:
        scores = one.scores(stages[-1]["said"].get(way, first))
        found |= {
            "old": one.known_before(first),
            "changed": scores["changed"],
            "unchanged": scores["unchanged"],
            "again": scores["questions"],
        }
    return found


def report(model: str, runs: Runs) -> Finding:
    """The whole report, for any subset of the texts."""
    texts = manual_texts()
    found = {
        name: {way: marks(texts[name], run, way) for way in WAYS} for name, run in runs.items()
    }
    halves = {
        half: {name: runs[name] for name in runs if texts[name].tuning == tuning}
        for tuning, half in HALVES.items()
    }
    metrics: dict[str, Any] = {
        half: {
            way: {kind: shares([found[n][way] for n in own], kind).record() for kind in COUNTS}
            for way in WAYS
        }
        for half, own in halves.items()
    }
    metrics["targets"] = {half: reached(own, found) for half, own in halves.items() if own}
    aside = halves["set aside"]
    sections = [
        Section("Method", about(model)),
        Section("The targets", tables=_targets(metrics["targets"])),
        *(_half(half, own, found) for half, own in halves.items() if own),
        Section("Every reply", REPLIES, [t for name in runs for t in _replies(name, runs[name])]),
    ]
    shown = Section("In short", SHOWN, [_by_reader(aside, found)] if aside else [])
    return Finding(metrics, sections, answer(aside, found), shown)


SHOWN = (
    "Replies as they should be, of the four texts that were set aside, two of which are corrected."
)
REPLIES = (
    "+ is a reply as it should be, - another. A question that the text does not answer has none "
    "of the text's own values of that kind in its reply; before the correction, what is changed "
    "by it has the value of before."
)


def shares(found: Sequence[Marks], kind: str) -> Interval:
    """The mean share of replies that are as they should be, over texts."""
    return interval([sum(one[kind]) / len(one[kind]) for one in found if one.get(kind)])


def count(found: Sequence[Marks], kind: str) -> tuple[int, int]:
    """The number of replies that are as they should be, and of all replies."""
    own = [one[kind] for one in found if kind in one]
    return sum(map(sum, own)), sum(map(len, own))


def reached(runs: Runs, found: Mapping[str, Mapping[str, Marks]]) -> dict[str, float]:
    """The figures that the targets are about, for some texts."""

    def share(way: str, kind: str) -> float:
        right, of = count([found[name][way] for name in runs], kind)
        return right / of

    within = max(share(way, "answered") for way in ("chat", "shots"))
    own = share("studied", "answered")
    stages = [stage for run in runs.values() for stage in run["stages"]]
    first = [run["stages"][0] for run in runs.values()]
    return {
        "answered": own,
        "of in context": own / within if within else 1.0,  # nobody answers, or none with the text
        "unanswerable": share("studied", "unanswerable"),
        "known": max(rise for run in runs.values() for rise in run["known"]),
        "page": max(PAGE * one["cpu_seconds"] / one["tokens"] for one in first),
        "file": max(stage["bytes"] for stage in stages) / 1e6,
        "memory": max(run["peak_bytes"] for run in runs.values()) / 1e9,
    }


# for each: title, bound, whether the bound is a minimum, and number format
TARGETS = {
    "answered": ("questions answered, share", 0.6, True, "{:.2f}"),
    "of in context": ("of what the better reader with the text answers", 0.9, True, "{:.2f}"),
    "unanswerable": ("unanswerable, no learned value, share", 0.8, True, "{:.2f}"),
    "known": ("rise of the loss of known text, worst text", 0.02, False, "{:+.1%}"),
    "page": (f"CPU s for {PAGE} tokens, worst text", 60.0, False, "{:.0f}"),
    "file": ("MB of a memory file, worst text", 25.0, False, "{:.2f}"),
    "memory": ("GB in use, at most", 2.5, False, "{:.2f}"),
}


def met(name: str, value: float) -> bool:
    """Whether a target is met."""
    _, bound, least, _ = TARGETS[name]
    return value >= bound if least else value <= bound


def _targets(found: Mapping[str, Mapping[str, float]]) -> list[Table]:
    if not found:
        return []
    rows = []
    for name, (title, bound, least, form) in TARGETS.items():
        row = [title, f"{'>=' if least else '<='} {form.format(bound)}"]
        for own in found.values():
            row.append(f"{form.format(own[name])}{'' if met(name, own[name]) else ' (missed)'}")
        rows.append(row)
    return [Table(columns=("studied", "target", *found), rows=rows)]


def answer(aside: Runs, found: Mapping[str, Mapping[str, Marks]]) -> str:
    """How many questions about the texts set aside are answered right, and otherwise."""
    if not aside:
        return "None of the texts that were set aside was run yet."

    def told(way: str) -> str:
        right, of = count([found[name][way] for name in aside], "answered")
        return f"Of {of} questions {right}" if way == "studied" else f"{right or 'none'}"

    return (
        f"{told('studied')} about {len(aside)} texts that were set aside are answered right once "
        f"the text was studied and is gone, {told('chat')} with the text in chat and "
        f"{told('nothing')} if nothing was read."
    )


def _by_reader(runs: Runs, found: Mapping[str, Mapping[str, Marks]]) -> Table:
    rows = []
    for way, title in SHORT.items():
        counts = (count([found[name][way] for name in runs], kind) for kind in COUNTS)
        rows.append((title, *(f"{right} of {of}" if of else "-" for right, of in counts)))
    return Table(columns=("reader", *COUNTS.values()), rows=rows)


def _half(half: str, runs: Runs, found: Mapping[str, Mapping[str, Marks]]) -> Section:
    """Shares by reader, replies by text, and what learning costs."""
    shared = [
        (title, *(_share(shares([found[name][way] for name in runs], kind)) for kind in COUNTS))
        for way, title in SHORT.items()
    ]
    rows = []
    for name in runs:
        for way, title in SHORT.items():
            counts = (count([found[name][way]], kind) for kind in COUNTS)
            rows.append((name, title, *(f"{right} of {of}" if of else "-" for right, of in counts)))
    costs = [(name, run["words"], *_costs(run)) for name, run in runs.items()]
    text = (
        "Mean share of a text with its 95 % interval over texts (Student's t), the replies text by "
        "text, and what learning costs."
    )
    tables = [
        Table(columns=("reader", *COUNTS.values()), rows=shared),
        Table(columns=("text", "reader", *COUNTS.values()), rows=rows),
        Table(columns=("text", "words", "known text", "CPU s", "MB"), rows=costs),
    ]
    return Section(f"Texts: {half}", text, tables)


def _share(found: Interval) -> str:
    return str(found) if found.every else "-"


def _costs(run: Run) -> tuple[str, str, str]:
    """The cost of the text, and then of its correction."""
    stages = run["stages"]
    return (
        ", ".join(f"{rise:+.1%}" for rise in run["known"]),
        ", ".join(f"{stage['cpu_seconds']:.0f}" for stage in stages),
        ", ".join(f"{stage['bytes'] / 1e6:.2f}" for stage in stages),
    )


def _replies(name: str, run: Run) -> list[Table]:
    one = manual_texts()[name]
    tables = []
    for number, stage in enumerate(run["stages"]):
        said = {way: stage["said"][way] for way in WAYS if way in stage["said"]}
        passed = {way: _flat(one, said[way], before=not number) for way in said}
        rows = [
            (
                asked.ask,
                *(f"{'+' if passed[w][i] else '-'} {' '.join(said[w][i].split())}" for w in said),
            )
            for i, asked in enumerate(one.asked)
        ]
        title = f"{name}, {'corrected' if number else one.kind}"
        columns = ("question", *(SHORT[way] for way in said))
        tables.append(Table(columns=columns, rows=rows, title=title))
    return tables


def _flat(one: Manual, replies: Sequence[str], *, before: bool) -> list[bool]:
    scores = one.scores(replies)
    if before:
        scores["changed"] = one.known_before(replies)
    return [passed for kind in scores.values() for passed in kind]


def about(model: str) -> str:
    """The description of the method."""
    return (
        f"{model} reads each text by `nestling adapt` and `nestling learn` without further "
        "options, and eight questions in other words that the text answers are asked, and two "
        "that it does not answer; greedy, at most 40 tokens. Four texts are corrected: `learn` "
        "reads the correction into the same memory file, and a new process is asked all "
        "questions again, three about what was changed, two about what was not; those who have "
        "the text in their context have the correction after it. A reply is right if, of all "
        "values that are right or wrong, it names a right one first. Compared: "
        f"{'; '.join(WAYS.values())}. Known text is what the base wrote itself: the rise of its "
        "loss since before the first text. Texts and questions "
        "(`lab/nestling_lab/studies/continual/manuals.toml`) were written before the first run; "
        "methods may be developed on the half called tuning, never on the other; replies about "
        "two of the texts set aside, dehumidifier and radio_engineer, to an earlier form had "
        "been seen before this one was made, and so had the text of a third, vet_fees. They "
        "are not those of the task `manuals`. `nestling learn` has no seed to choose: one seed, "
        "one run each; intervals are over texts alone."
    )
