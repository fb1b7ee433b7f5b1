"""The report of the domain studies: tables and sentences from the matrices of all runs."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from nestling.core.statistics import interval
from nestling.report import Section, Table
from nestling_lab.studies.answers import NOTHING, TESTED, differences, grouped
from nestling_lab.studies.continual.base import Pretraining
from nestling_lab.studies.continual.contenders import EVERY, NONE, STORES_TEXT
from nestling_lab.studies.continual.domain_figures import (
    Journeys,
    both_reached,
    figures,
    less,
    less_than,
)
from nestling_lab.studies.continual.journey import KNOWN, OLD, Matrix
from nestling_lab.studies.study import Finding

FULL = ("fine-tuning", "large-fine-tuning")
AVERAGED = "averages"  # full fine-tuning with running averages
AVERAGES = (
    "With averages: the gate over levels also mixes in running means of the weights, over 8,192, "
    "2,048 and 512 tokens. "
)
COLUMNS = {
    "bits a byte at the end": "final",
    "old domain, rise in %": "old_rise",
    "gain on a domain when read": "gain",
    "backward transfer": "backward",
    "forward transfer": "forward",
}


def report(config: Any, found: Sequence[Journeys]) -> Finding:
    """The whole report, for any subset of the cells."""
    whole = [one for one in found if one.contender in FULL]
    full = next((list(one.matrices.values()) for one in whole if one.gate == NONE), None)
    rows, shares, metrics = [], [], {}
    for one in found:
        own = figures(list(one.matrices.values()), full)
        metrics[one.key] = {
            "setting": dict(one.setting),
            **{k: v if isinstance(v, list | None) else v.record() for k, v in own.items()},
        }
        setting = ", ".join(f"{k} {v:g}" for k, v in one.setting.items())
        rows.append((one.title, setting, *(str(own[key]) for key in COLUMNS.values())))
        if own["shares"] is not None:
            parts = (f"{100 * s:.0f} %" if s == s else "diverged" for s in own["shares"])
            shares.append((one.title, *parts, both_reached(own)))
    against = [differences(less(found, other)) for other in whole]
    sections = [
        Section("Method", about(config)),
        Section(
            "After the last domain",
            tables=[Table(columns=("method", "setting", *COLUMNS), rows=rows)],
        ),
    ]
    if len(config.seeds) > 1 and whole:
        sections.append(Section("Seed by seed", SEEDS, [seed_by_seed(found, whole, against)]))
    if shares:
        columns = ("share of full fine-tuning's gain", *config.domains, "both targets")
        table = Table(columns=columns, rows=shares)
        sections.append(Section("The targets", TARGETS, tables=[table]))
    if found:
        each = [_matrix(config, one) for one in found]
        sections.append(Section("After every domain", "Bits a byte, mean over seeds.", each))
    shown = Section("In short", SHOWN, [short_table(found, against)] if found else [])
    return Finding(metrics, sections, answer(found, full), shown)


SHOWN = (
    "Every method with the gate of its lowest loss, mean over all domains after the last; those "
    f"of other gates are below. {TESTED.format(pairs='seeds')}"
)
SEEDS = (
    "Bits a byte at the end less those of full fine-tuning with the same seed; negative is better. "
    f"{TESTED.format(pairs='seeds')} Methods chose their settings on the first seed."
)
TARGETS = (
    "Two targets were set before: the old domain's loss rises by less than 1 %, and on each new "
    "domain at least half of full fine-tuning's gain is reached. Here a gain is the fall of a "
    "domain's loss from before anything was read to the end of that domain, a mean over seeds, and "
    "full fine-tuning is ungated at its own best setting."
)


def short_table(found: Sequence[Journeys], against: Sequence[Mapping[str, str]]) -> Table:
    """A row per method, with the gate of its lowest final loss; the lowest first."""
    best: dict[str, Journeys] = {}
    for one in sorted(found, key=lambda one: one.final.rank()):
        best.setdefault(one.contender, one)
    rows = [
        (
            one.title,
            "yes" if one.contender in STORES_TEXT else "no",
            str(one.final),
            str(one.old_rise),
            against[0].get(one.title, "-") if against else "-",
        )
        for one in best.values()
    ]
    columns = (
        "method", "stores text", "bits a byte", "old domain, rise in %", "less full fine-tuning"
    )  # fmt: skip
    return Table(columns=columns, rows=rows)


def seed_by_seed(
    found: Sequence[Journeys], whole: Sequence[Journeys], against: Sequence[Mapping[str, str]]
) -> Table:
    """The final differences between every method and some others, over common seeds."""
    rows = [
        (one.title, *(told.get(one.title, "-") for told in against))
        for one in found
        if one.contender != "frozen"
    ]
    return Table(columns=("method", *(f"less {other.title}" for other in whole)), rows=rows)


def _matrix(config: Any, one: Journeys) -> Table:
    names = (OLD, *config.domains)
    rows = []
    for stage, label in enumerate(("before", *config.domains)):
        found = [
            interval([matrix[stage][i] for matrix in one.matrices.values()])
            for i in range(len(names))
        ]
        means = [
            str(each._replace(half=math.nan)) if each.diverged else each.mean for each in found
        ]
        rows.append((f"after {label}" if stage else label, *means))
    return Table(columns=("bits a byte of", *names), rows=rows, title=one.title)


def answer(found: Sequence[Journeys], full: Sequence[Matrix] | None) -> str:
    """Whether levels reach the targets, and how they compare with full fine-tuning."""
    known = sorted((one for one in found if one.finals), key=lambda one: one.final.rank())
    levels = [one for one in known if "levels" in one.contender]
    whole = [one for one in known if one.contender in (*FULL, AVERAGED)]
    if not known:
        return NOTHING
    if not levels or not whole or full is None:
        return "Open: levels or full fine-tuning are to be run."
    own, other = levels[0], whole[0]
    test = less_than(own, other)
    above, below, _ = grouped({"": test})
    word = "not significantly different from"
    if above or below:
        word = f"significantly {'higher' if above else 'lower'} than"
    one_seed = ", one seed" if test.difference.every == 1 else ""
    if test.p_t is None:
        word = "compared with"
    reached = both_reached(figures(list(own.matrices.values()), full)) == "yes"
    return (
        f"{'Yes' if reached else 'No'}: the best model of levels ({own.title}) ends at "
        f"{own.final.mean:.4g} bits a byte, {word} the best full fine-tuning "
        f"({other.final.mean:.4g}{one_seed}), and changes the old domain's loss by "
        f"{own.old_rise.mean:+.2g} %."
    )


def about(config: Any) -> str:
    """The description of the method."""
    tried = len(EVERY[config.contenders[-1]].settings)
    return (
        f"{_model(config.base)}; it then reads {config.tokens:,} tokens each of "
        f"{', '.join(config.domains)}, every token once. Weights are written every "
        f"{config.segment} tokens at the fastest; the window is {config.window} tokens. Held-out "
        "text of every domain is scored before and after each; bits a byte, smaller is better. "
        "Seeds differ in the model and in the documents.\n\n"
        f"Every method tries {tried} settings with one seed. The one with the lowest average over "
        "all domains at the end, on other held-out text than is reported, goes on with the other "
        "seeds; each gate chooses for itself. A gate mixes, where text is scored, the current "
        "model with the model before anything was read, or with that and its slower levels, by "
        "how well each predicted the text so far; it does not change the reading. "
        f"{AVERAGES if AVERAGED in config.contenders else ''}Elastic weight "
        f"consolidation and rehearsal are given {KNOWN} documents of the old domain; rehearsal "
        "reads a stored segment for every new one, twice as much as the others.\n\n"
        "Old domain: rise of its loss from first to last. Gain: fall of a domain's loss while it "
        "is read. Backward transfer: rise of a domain's loss from its own end to the end of all "
        "(positive: forgotten). Forward transfer: fall of its loss before it is read. Mean and "
        "95 % interval over seeds."
    )


def _model(base: Pretraining | str) -> str:
    if isinstance(base, str):
        return f"{base} is used as published, and {OLD} is a text that it never reads here"
    return (
        f"A Llama of {base.layers} layers of {base.hidden_size} learns {OLD} ({base.steps} steps "
        f"of {base.batch_size} x {base.length} tokens)"
    )
