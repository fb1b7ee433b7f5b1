"""The report of the study of new languages: tables, a figure and sentences."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from nestling.core.statistics import Interval, interval
from nestling.report import Section, Table
from nestling.report.figure import bars
from nestling_lab.studies.answers import NOTHING
from nestling_lab.studies.continual.contenders import CONTENDERS
from nestling_lab.studies.continual.journey import OLD
from nestling_lab.studies.continual.languages import CHOICES
from nestling_lab.studies.study import Finding

LEAST = 0.1  # bits per byte; shares of a smaller gain are not reported
# by reader: its setting, and by seed the outcome of both languages in sequence and of the second
# alone, if it has been run
Pairs = Sequence[tuple[Mapping[str, Any], Mapping[str, Any] | None]]
Found = Mapping[str, tuple[dict[str, Any], Pairs]]


def figures(config: Any, seeds: Pairs) -> dict[str, Interval]:
    """Intervals over seeds of ``bits`` and ``cloze`` for each language, alone and after both."""
    first, second = config.languages
    values: dict[str, list[float]] = {}
    for both, one in seeds:
        before, middle, last = both["stages"]
        alone = one["stages"][-1] if one else None
        for kind in ("bits", "cloze"):
            for name, when in ((first, middle), (second, alone)):
                values.setdefault(f"{kind} {name} before", []).append(before[kind][name])
                values.setdefault(f"{kind} {name} alone", [])
                if when is not None:
                    values[f"{kind} {name} alone"].append(when[kind][name])
                values.setdefault(f"{kind} {name} both", []).append(last[kind][name])
        gain = before["bits"][first] - middle["bits"][first]
        left = before["bits"][first] - last["bits"][first]
        values.setdefault("lost", []).append(last["bits"][first] - middle["bits"][first])
        if gain > LEAST or not math.isfinite(gain):
            values.setdefault("kept", []).append(100 * left / gain)
        rise = last["bits"][OLD] / before["bits"][OLD] - 1
        values.setdefault("old", []).append(100 * rise)
    return {name: interval(found) for name, found in values.items()}


def report(config: Any, found: Found) -> Finding:
    """The whole report, for any subset of the readers."""
    own = {reader: figures(config, seeds) for reader, (_, seeds) in found.items()}
    metrics = {
        reader: {"setting": found[reader][0], **{k: v.record() for k, v in values.items()}}
        for reader, values in own.items()
    }
    sections = [Section("Method", about(config))]
    if own:
        sections += [
            Section("Lost while the second language is read", LOST, figures=[_lost_figure(own)]),
            Section("Bits a byte", BITS, tables=_tables(config, own, "bits")),
            Section(
                "Cloze",
                f"Share of verses whose last word is the likeliest of {CHOICES}; chance "
                f"{1 / CHOICES:g}.",
                tables=_tables(config, own, "cloze"),
            ),
        ]
    shown = Section("In short", SHOWN, [_lost_table(config, own, found)] if own else [])
    return Finding(metrics, sections, answer(config, own), shown)


BITS = "Smaller is better. Alone: that language read by a model that had read no other."
LOST = "Rise of the bits a byte of the first language while the second is read."
SHOWN = (
    "Bits a byte (smaller is better): lost is the rise while the second language is read; kept is "
    "the share of the gain that is left. Mean and 95 % interval over seeds."
)


def _lost_figure(own: Mapping[str, Mapping[str, Interval]]) -> str:
    lost = {
        CONTENDERS[reader].title + " (in part diverged)" * bool(values["lost"].diverged): (
            values["lost"].mean,
            values["lost"].half,
        )
        for reader, values in own.items()
    }
    return bars(lost, x_label="bits a byte lost of the first language")


def _lost_table(config: Any, own: Mapping[str, Mapping[str, Interval]], found: Found) -> Table:
    first = config.languages[0]
    rows = [
        (
            CONTENDERS[reader].title,
            ", ".join(f"{k} {v:g}" for k, v in found[reader][0].items()),
            _say(values[f"bits {first} alone"]),
            _say(values[f"bits {first} both"]),
            _say(values["lost"]),
            f"{values['kept']} %" if "kept" in values else "-",
            f"{values['old']} %",
        )
        for reader, values in own.items()
    ]
    columns = (
        "reader", "setting", f"{first.capitalize()} alone", "after both", "lost", "kept",
        "rise of English",
    )  # fmt: skip
    return Table(columns=columns, rows=rows)


def _tables(config: Any, own: Mapping[str, Mapping[str, Interval]], kind: str) -> list[Table]:
    """A table per language: before anything was read, after it alone, and after both."""
    stages = {"before": "before", "alone": "alone", "after both": "both"}
    return [
        Table(
            columns=(f"{name.capitalize()}, reader", *stages),
            rows=[
                (
                    CONTENDERS[reader].title,
                    *(_say(values[f"{kind} {name} {when}"]) for when in stages.values()),
                )
                for reader, values in own.items()
            ],
        )
        for name in config.languages
    ]


def _say(found: Interval) -> str:
    return str(found) if found.every else "-"


def answer(config: Any, own: Mapping[str, Mapping[str, Interval]]) -> str:
    """How many readers significantly forget some of the first language, and how much."""
    first = config.languages[0].capitalize()
    lost = {r: own[r]["lost"] for r in own if r not in ("frozen", "in-context")}
    if not lost:
        return NOTHING
    sure = sorted((r for r in lost if lost[r].low > 0), key=lambda r: -lost[r].mean)
    if not sure:
        return f"No loss of {first} while the second language is read is significant."
    ways = "all" if len(sure) == len(lost) else f"{len(sure)} of"
    ends = dict.fromkeys((sure[0], sure[-1]))
    told = " to ".join(f"{lost[r].mean:.2g} ({CONTENDERS[r].title})" for r in ends)
    return (
        f"Yes: {ways} {len(lost)} ways of writing weights lose {first} while they read the second "
        f"language, by {told} bits a byte."
    )


def about(config: Any) -> str:
    """The description of the method."""
    return (
        f"As in the paper's Figure 8, with other material. A Llama of {config.base.layers} "
        f"layers of {config.base.hidden_size} has learned English (World English Bible, public "
        f"domain), with a tokenizer of English. It reads {config.tokens:,} tokens of "
        f"{config.languages[0]}, then as many of {config.languages[1]}, every token once; or one "
        "of them alone. Spanish is the Reina-Valera of 1909. Invented is the King James Bible in "
        "a cipher that replaces every letter by another, as no second translation in the public "
        "domain that is aligned by verse was at hand: its grammar is that of English, its words "
        "nobody can know. In both, verses of the same places are read, and others of the same "
        "places are measured on.\n\n"
        f"The fastest weights are written every {config.segment} tokens; the window is "
        f"{config.window} tokens. Each reader tries two settings with one seed; the one with the "
        "lowest loss over English and both languages at the end, on other verses than are "
        "reported, goes on with all seeds. The frozen model has no setting. In context: the last "
        "text read stands before what is measured. Seeds differ in the model and in the verses "
        "read."
    )
