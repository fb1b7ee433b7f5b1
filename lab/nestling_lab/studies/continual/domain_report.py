"""The report of the domain studies: tables and sentences from the matrices of all runs."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from nestling.core.statistics import holm, interval, paired
from nestling.report import Section, Table
from nestling_lab.studies.answers import NOTHING, beside
from nestling_lab.studies.continual.base import Pretraining
from nestling_lab.studies.continual.contenders import EVERY, NONE, STORES_TEXT, Setting
from nestling_lab.studies.continual.journey import KNOWN, OLD, Matrix
from nestling_lab.studies.study import Finding

GATE_TITLES = {NONE: "", "base": ", gated with the base", "levels": ", gated over levels"}
FULL = ("fine-tuning", "large-fine-tuning")
AVERAGED = "averages"  # full fine-tuning with running averages
COLUMNS = (
    "method", "stores text", "setting", "bits a byte at the end", "old domain, rise in %",
    "gain on a domain when read", "backward transfer", "forward transfer",
)  # fmt: skip


class Journeys(NamedTuple):
    """A method asked through a gate, with the setting chosen for that gate."""

    contender: str
    gate: str
    setting: Setting
    matrices: Mapping[int, Matrix]  # by seed

    @property
    def title(self) -> str:
        """The method and gate in words."""
        return EVERY[self.contender].title + GATE_TITLES[self.gate]

    @property
    def key(self) -> str:
        """The name in the metrics."""
        return self.contender if self.gate == NONE else f"{self.contender}, gate {self.gate}"

    @property
    def finals(self) -> dict[int, float]:
        """The final average over all domains, by seed."""
        return {seed: summary(matrix)["final"] for seed, matrix in self.matrices.items()}


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
        rows.append(
            (
                one.title,
                "yes" if one.contender in STORES_TEXT else "no",
                ", ".join(f"{k} {v:g}" for k, v in one.setting.items()),
                *(str(own[key]) for key in ("final", "old_rise", "gain", "backward", "forward")),
            )
        )
        if own["shares"] is not None:
            parts = (f"{100 * s:.0f} %" if s == s else "diverged" for s in own["shares"])
            shares.append((one.title, *parts, _both(own)))
    sections = [
        Section("Method", about(config)),
        Section("After the last domain", tables=[Table(columns=COLUMNS, rows=rows)]),
    ]
    if len(config.seeds) > 1 and whole:
        sections.append(Section("Seed by seed", SEEDS, tables=[seed_by_seed(found, whole)]))
    if shares:
        columns = ("share of full fine-tuning's gain", *config.domains, "both targets")
        table = Table(columns=columns, rows=shares)
        sections.append(Section("The targets", TARGETS, tables=[table]))
    for one in found:
        sections.append(Section(one.title, tables=[_matrix(config, list(one.matrices.values()))]))
    return Finding(metrics, sections, answer(found))


SEEDS = (
    "Bits a byte at the end less those of full fine-tuning with the same seed; negative is better. "
    "Mean, 95 % interval, and Student's probability that the difference is zero, raised for the "
    "number of methods in the column (Holm). Methods chose their settings on the first seed."
)
TARGETS = (
    "Two targets were set before: the old domain's loss rises by less than 1 %, and on each new "
    "domain at least half of full fine-tuning's gain is reached. Here a gain is the fall of a "
    "domain's loss from before anything was read to the end of that domain, a mean over seeds, and "
    "full fine-tuning is ungated at its own best setting."
)


def seed_by_seed(found: Sequence[Journeys], whole: Sequence[Journeys]) -> Table:
    """The final differences between every method and some others, over common seeds."""
    found = [one for one in found if one.contender != "frozen"]
    columns = []
    for other in whole:
        tests = []
        for one in found:
            seeds = sorted(one.finals.keys() & other.finals.keys())
            tests.append(paired([one.finals[s] for s in seeds], [other.finals[s] for s in seeds]))
        own = [one is other for one in found]
        asked = [
            t.p_t for t, same in zip(tests, own, strict=True) if not same and t.p_t is not None
        ]
        raised = iter(holm(asked))
        columns.append(
            [
                "-" if same else str(t if t.p_t is None else t._replace(p_t=next(raised)))
                for t, same in zip(tests, own, strict=True)
            ]
        )
    rows = [(one.title, *cells) for one, *cells in zip(found, *columns, strict=True)]
    return Table(columns=("method", *(f"less {other.title}" for other in whole)), rows=rows)


def _matrix(config: Any, matrices: Sequence[Matrix]) -> Table:
    names = (OLD, *config.domains)
    rows = []
    for stage, label in enumerate(("before", *config.domains)):
        found = [interval([matrix[stage][i] for matrix in matrices]) for i in range(len(names))]
        means = [str(one._replace(half=math.nan)) if one.diverged else one.mean for one in found]
        rows.append((f"after {label}" if stage else label, *means))
    return Table(columns=("bits a byte of", *names), rows=rows, title="mean over seeds")


def answer(found: Sequence[Journeys]) -> str:
    """The best method without stored text, and levels compared with full fine-tuning."""
    known = [one for one in found if one.finals]
    if not known:
        return NOTHING
    best = min(known, key=lambda one: interval(list(one.finals.values())).rank())
    end = interval(list(best.finals.values()))
    said = f"Bits a byte over all domains at the end are least with {best.title}, {end}"
    levels = [one for one in known if "levels" in one.contender]
    whole = [one for one in known if one.contender in (*FULL, AVERAGED)]
    if levels and whole:
        own, other = (
            min(some, key=lambda one: interval(list(one.finals.values())).rank())
            for some in (levels, whole)
        )
        seeds = sorted(own.finals.keys() & other.finals.keys())
        test = paired([other.finals[s] for s in seeds], [own.finals[s] for s in seeds])
        old = interval([summary(matrix)["old_rise"] for matrix in own.matrices.values()])
        said += (
            f"; {own.title} ends at {interval(list(own.finals.values()))}, "
            f"{beside({other.title: test})}, and changes the old domain's loss by {old} %"
        )
    return said + "."


def about(config: Any) -> str:
    """The description of the method."""
    tried = len(EVERY[config.contenders[-1]].settings)
    return (
        f"{_model(config.base)}; it then reads "
        f"{config.tokens:,} tokens each of {', '.join(config.domains)}, every token once, weights "
        f"written every {config.segment} tokens at the fastest, window {config.window}. Held-out "
        "text of every domain is scored before and after each; bits a byte, smaller is better. "
        f"Every method tries {tried} settings with one seed; that "
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


def _model(base: Pretraining | str) -> str:
    if isinstance(base, str):
        return f"{base} is as its makers left it, and {OLD} a text that it never reads here"
    return (
        f"A Llama of {base.layers} layers of {base.hidden_size} learns {OLD} ({base.steps} steps "
        f"of {base.batch_size} x {base.length} tokens)"
    )


def summary(matrix: Matrix) -> dict[str, float]:
    """The figures of one run; the page of the study explains them."""
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
    """``summary`` over runs, and the share of full fine-tuning's gain for each domain."""
    parts = [summary(matrix) for matrix in matrices]
    found: dict[str, Any] = {key: interval([part[key] for part in parts]) for key in parts[0]}
    gains = None if full is None else gained(full)
    shares = None if gains is None else zip(gained(matrices), gains, strict=True)
    return found | {"shares": shares and [own / whole for own, whole in shares]}


def gained(matrices: Sequence[Matrix]) -> list[float]:
    """The mean drop of each new domain's loss, from the first stage to its own."""
    return [
        sum(matrix[0][i] - matrix[i][i] for matrix in matrices) / len(matrices)
        for i in range(1, len(matrices[0]))
    ]


def _both(own: Mapping[str, Any]) -> str:
    old, shares = own["old_rise"], own["shares"]
    return "yes" if not old.diverged and old.mean < 1 and all(s >= 0.5 for s in shares) else "no"
