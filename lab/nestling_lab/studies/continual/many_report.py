"""The report of the study ``many-documents``: answers by distance, strangers, and known text."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from nestling.continual.study.examine import holds
from nestling.continual.study.study import HELD
from nestling.core.statistics import interval
from nestling.report import Section, Table
from nestling_lab.studies.answers import NOTHING, counted
from nestling_lab.studies.study import Finding

if TYPE_CHECKING:
    from nestling_lab.studies.continual.many import ManyDocuments

Run = Mapping[str, Any]


def report(config: "ManyDocuments.Config", runs: Sequence[Run]) -> Finding:
    """What is still answered, by the number of documents studied since."""
    by_distance = {distance: _right(runs, distance) for distance in config.distances}
    strangers = _strangers(runs)
    rise = [_rises(run) for run in runs]
    metrics = {
        "right": {str(distance): sum(right) for distance, right in by_distance.items()},
        "asked": {str(distance): len(right) for distance, right in by_distance.items()},
        "likeliest": {str(d): sum(_likeliest(runs, d)) for d in config.distances},
        "unchecked": _said(runs, "unchecked"),
        "at_once": _said(runs, "at_once"),
        "bound": sum(sum(run["bound"]) for run in runs),
        "bound_asked": sum(len(run["bound"]) for run in runs),
        "strangers_quiet": sum(strangers),
        "strangers_asked": len(strangers),
        "rise": rise,
        "kept": {name: [list(pair) for pair in pairs] for name, pairs in _kept(runs).items()},
    }
    sections = [Section("Method", _about(config))]
    if runs:
        sections += [
            Section("What was known before", tables=[_kept_table(runs)]),
            Section("Text of the base", _course(rise)),
            Section("Cost", _cost(runs)),
            Section("Every reply", tables=[_replies(runs)]),
        ]
    shown = Section("In short", tables=[_outcome(config, runs)] if runs else [])
    return Finding(metrics, sections, _answer(by_distance, rise) if runs else NOTHING, shown)


def _right(runs: Sequence[Run], distance: int) -> list[bool]:
    each = [one for run in runs for one in run["replies"][str(distance)]]
    return [right for replies in each for _, _, right in replies]


def _strangers(runs: Sequence[Run]) -> list[bool]:
    """Whether the reply about somebody in no document is without the value of the document."""
    each = [one for run in runs for one in run["strangers"]]
    return [not holds(said, value) for replies in each for value, said, *_ in replies]


def _said(runs: Sequence[Run], how: str) -> int:
    """How many values are said unchecked, after all documents."""
    return sum(right for run in runs for replies in run[how] for *_, right in replies)


def _likeliest(runs: Sequence[Run], distance: int) -> list[bool]:
    """Whether the sentence of the text is likelier than with any of three other values."""
    each = [one for run in runs for one in run["margins"][str(distance)]]
    return [margin > 0 for margins in each for margin in margins]


def _rises(run: Run) -> list[float]:
    """The change of the loss of text that the base wrote, while each document is used."""
    return [after / before - 1 for before, after in run["own"]]


def _outcome(config: "ManyDocuments.Config", runs: Sequence[Run]) -> Table:
    control = [pair for run in runs for pair in run["control"]]
    strange = [margin for run in runs for one in run["stranger_margins"] for margin in one]
    rows = [("before", "-", _share([m > 0 for own, _ in control for m in own]))]
    rows += [
        (
            f"{distance} documents later" if distance else "just after",
            _share(_right(runs, distance)),
            _share(_likeliest(runs, distance)),
        )
        for distance in config.distances
        if _right(runs, distance)
    ]
    rows += [
        (
            "its own value, not that of another document, by the name",
            "-",
            _share([one for run in runs for one in run["bound"]]),
        ),
        *(
            (what, counted(_said(runs, how), len(_right(runs, min(config.distances)))), "-")
            for how, what in (
                ("unchecked", "after all, the likeliest reply"),
                ("at_once", "the same, all documents used at once"),
            )
        ),
        (
            "about somebody in no document: no value of the document",
            _share(_strangers(runs)),
            "-",
        ),
        (
            "about somebody in no document: the document's value likeliest, before",
            "-",
            _share([m > 0 for _, other in control for m in other]),
        ),
        ("the same, just after", "-", _share([m > 0 for m in strange])),
    ]
    return Table(columns=("asked", "right in chat", "likeliest of four"), rows=rows)


def _share(right: Sequence[bool]) -> str:
    return counted(sum(right), len(right))


def _kept(runs: Sequence[Run]) -> dict[str, list[tuple[float, float]]]:
    """Pairs (before, after all documents) for each measure of what was known, by memory."""
    found: dict[str, list[tuple[float, float]]] = {}
    for run in runs:
        first, last = run["kept"]
        for name in first["losses"]:
            pair = (first["losses"][name], last["losses"][name])
            found.setdefault(f"loss of {name}, nats a token", []).append(pair)
            pair = (first["losses"][name], last["together"][name])
            found.setdefault(f"the same, all documents used at once: {name}", []).append(pair)
        for name, title in (("general", "general questions"), ("social", "social_iqa")):
            pair = (_count(first[name]), _count(last[name]))
            found.setdefault(f"{title} right, of {len(first[name])}", []).append(pair)
    return found


def _count(outcomes: Sequence[Any]) -> float:
    """How many are right; the last item of a record says so."""
    return float(sum(one[-1] if isinstance(one, list) else one for one in outcomes))


def _kept_table(runs: Sequence[Run]) -> Table:
    rows = [
        (
            name,
            interval([before for before, _ in pairs]),
            interval([after for _, after in pairs]),
            "-" if "right" in name else _over([after / before - 1 for before, after in pairs]),
        )
        for name, pairs in _kept(runs).items()
    ]
    return Table(columns=("measure", "before", "after all documents", "change"), rows=rows)


def _course(rises: Sequence[Sequence[float]]) -> str:
    every = [100 * rise for own in rises for rise in own]
    return (
        "While a document is used, the loss of text that the base wrote is changed by "
        f"{fmean(every):+.2f} % ({min(every):+.2f} to {max(every):+.2f} % by document, "
        f"{len(every)} documents)."
    )


def _over(rises: Sequence[float]) -> str:
    found = interval([100 * rise for rise in rises])
    return f"{found} %"


def _cost(runs: Sequence[Run]) -> str:
    mean = interval([sum(run["seconds"]) / len(run["seconds"]) for run in runs])
    return f"A document takes {mean} CPU seconds to learn."


def _replies(runs: Sequence[Run]) -> Table:
    rows = [
        (number, distance, value, "yes" if right else "no", " ".join(said.split()))
        for number, run in enumerate(runs)
        for distance, documents in run["replies"].items()
        for replies in documents
        for value, said, right in replies
    ]
    return Table(columns=("memory", "documents since", "value", "right", "reply"), rows=rows)


def _about(config: "ManyDocuments.Config") -> str:
    return (
        f"{config.model} studies {config.targets + max(config.distances)} documents one after "
        "another with the defaults of `nestling learn`, all into one memory. Each is about a "
        "made-up person and has six facts (`nestling/tasks/facts.py`). Of the first "
        f"{config.targets} every fact is asked for in other words, in chat, with an empty context, "
        f"after {', '.join(map(str, config.distances))} further documents; a reply is right if it "
        "holds the value. *Likeliest of four*: as a reply to the question, the sentence of the "
        "text is likelier than the same with any of three other values of its kind; *by the name*: "
        "than with the value of another document about which the same was asked, after all. "
        "A text uses the one document that it concerns most "
        "(`nestling/continual/study/routing.py:concerned`); of the held-out text only if it has a "
        "word of its subject. *At once*: the changes of all documents are added. "
        "Just after a document the same is asked about a person in no document. Known before: "
        f"{HELD} passages that the base wrote itself, which are in no lesson; the first "
        f"{config.probe:,} characters of held-out text of {' and '.join(config.known)}; "
        f"{config.general} general questions, asked with `nestling ask`; the first "
        f"{config.social} questions of social_iqa (BIG-bench, by likelihood per character). "
        "Intervals of shares are Wilson's, over questions, which share documents; the others are "
        "Student's, over memories."
    )


def _answer(by_distance: Mapping[int, list[bool]], rises: Sequence[Sequence[float]]) -> str:
    first, last = min(by_distance), max(by_distance)
    shares = [sum(by_distance[d]) / max(1, len(by_distance[d])) for d in (first, last)]
    mean = 100 * fmean(rise for own in rises for rise in own)
    verdict = "Yes" if shares[1] >= 0.65 and mean <= 2 else "Not as well as it should be"
    return (
        f"{verdict}: of the questions about a document {shares[0]:.0%} are answered just after it "
        f"and {shares[1]:.0%} with {last} more documents studied; while a document is used, the "
        f"loss of text that the base wrote changes by {mean:+.1f} %."
    )
