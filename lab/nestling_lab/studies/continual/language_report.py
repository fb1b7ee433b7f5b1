"""The report of the study of new languages: tables, a figure and sentences."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from nestling.core.statistics import Interval, interval
from nestling.report import Section, Table
from nestling.report.figure import bars
from nestling_lab.studies.answers import NOTHING, apart
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
            Section("What came out", " ".join(verdicts(config, own))),
            Section(
                "Bits a byte",
                "Smaller is better. Alone: that language read by a model that had read no other.",
                tables=[_table(config, own, found, "bits")],
            ),
            Section(
                "Cloze",
                f"Share of verses whose last word is the likeliest of {CHOICES}; chance "
                f"{1 / CHOICES:g}.",
                tables=[_table(config, own, found, "cloze")],
            ),
            Section(
                "What the second language takes away",
                "Rise of the bits a byte of the first language while the second is read.",
                figures=[
                    bars(
                        {
                            CONTENDERS[reader].title
                            + " (in part diverged)" * bool(values["lost"].diverged): (
                                values["lost"].mean,
                                values["lost"].half,
                            )
                            for reader, values in own.items()
                        },
                        x_label="bits a byte lost of the first language",
                    )
                ],
            ),
        ]
    return Finding(metrics, sections, answer(config, own))


def _table(config: Any, own: Mapping[str, Any], found: Found, kind: str) -> Table:
    first, second = config.languages
    rows = []
    for reader, values in own.items():
        setting = ", ".join(f"{k} {v:g}" for k, v in found[reader][0].items())
        row = [CONTENDERS[reader].title, setting]
        row += [
            _say(values[f"{kind} {name} {when}"])
            for name in (first, second)
            for when in ("before", "alone", "both")
        ]
        if kind == "bits":
            row += [f"{values['kept']} %" if "kept" in values else "-", f"{values['old']} %"]
        rows.append(tuple(row))
    columns = ["reader", "setting"]
    columns += [f"{n}, {w}" for n in (first, second) for w in ("before", "alone", "after both")]
    if kind == "bits":
        columns += [f"kept of {first}'s gain", "English, rise"]
    return Table(columns=tuple(columns), rows=rows)


def _say(found: Interval) -> str:
    return str(found) if found.every else "-"


def answer(config: Any, own: Mapping[str, Mapping[str, Interval]]) -> str:
    """How many readers forget some of the first language, and how much."""
    first, second = config.languages
    lost = {r: own[r]["lost"] for r in own if r not in ("frozen", "in-context")}
    if not lost:
        return NOTHING
    sure = sorted((r for r in lost if lost[r].low > 0), key=lambda r: lost[r].mean)
    said = (
        f"Of {len(lost)} ways of writing weights {len(sure)} are seen to lose of {first} while "
        f"{second} is read"
    )
    if not sure:
        return f"{said}; the others are not told apart from no loss."
    least, most = sure[0], sure[-1]
    said += f": {CONTENDERS[most].title} {lost[most]} bits a byte"
    if least != most:
        alike = "" if apart(lost[least], lost[most]) else " (not told apart)"
        said += f", {CONTENDERS[least].title} {lost[least]}{alike}"
    return f"{said}."


def verdicts(config: Any, own: Mapping[str, Mapping[str, Interval]]) -> list[str]:
    """Sentences about both setups."""
    first, second = config.languages
    said = []
    writers = [r for r in own if r not in ("frozen", "in-context")]
    for name in (first, second):
        for when, words in (("alone", "alone"), ("both", "after both")):
            key = f"bits {name} {when}"
            there = [reader for reader in own if own[reader][key].every]
            if len(there) < len(own):
                continue
            best = min(there, key=lambda r, k=key: own[r][k].rank())
            said.append(
                f"{name.capitalize()} {words}: least bits a byte with {CONTENDERS[best].title}, "
                f"{own[best][key]}."
            )
    for reader in writers + [r for r in own if r == "in-context"]:
        lost = own[reader]["lost"]
        word = "loses" if lost.low > 0 else "is not seen to lose"
        word = word if lost.every > 1 else "loses (one seed, no interval)"
        word = "diverged in part; it loses" if lost.diverged else word
        kept = (
            f", {own[reader]['kept'].mean:.0f} % of its gain kept" if "kept" in own[reader] else ""
        )
        said.append(
            f"{CONTENDERS[reader].title.capitalize()} {word} of {first} while it reads {second}: "
            f"{lost} bits a byte{kept}."
        )
    levels = [r for r in ("levels-1", "levels-2", "levels-3") if r in own]
    if len(levels) == 3:
        lost = [own[r]["lost"] for r in levels]
        # intervals of a single seed are NaN and overlap with all
        apart = not any(one.diverged for one in lost) and all(
            more.low > less.high for more, less in itertools.pairwise(lost)
        )
        said.append(
            f"With one, two and three levels the loss of {first} is "
            f"{', '.join(str(one) for one in lost)}: "
            + ("it falls with every level." if apart else "intervals overlap, no order is claimed.")
        )
    return said


def about(config: Any) -> str:
    """The description of the method."""
    return (
        f"The shape of the paper's Figure 8 with other material. A Llama of {config.base.layers} "
        f"layers of {config.base.hidden_size} has learned English (World English Bible, public "
        f"domain), with a tokenizer of English. It reads {config.tokens:,} tokens of "
        f"{config.languages[0]}, then as many of {config.languages[1]}, every token once; or one "
        "of them alone. Spanish is the Reina-Valera of 1909; invented is the King James Bible in "
        "a cipher in which every letter stands for another, as no second translation in the "
        "public domain that is aligned by verse was at hand: its grammar is that of English, its "
        "words nobody can know. Verses of the same places are read, and others of the same places "
        "are measured on, in both. Fastest weights are written every "
        f"{config.segment} tokens, window {config.window}. Two settings for each reader with one "
        "seed, the one of least loss over English and both languages at the end, on other verses "
        "than are reported, goes on with all; the frozen model has none. In context: the last "
        "text read stands before what is measured. Kept: share of the gain in the first language "
        "that is left after the second. Mean and 95 % interval over seeds, which differ in the "
        "model and in the verses read."
    )
