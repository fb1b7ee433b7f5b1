"""The page of the demo: answers before and after, and what the memories contributed."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nestling.core.result import Result
from nestling.demo.hope import TITLES
from nestling.demo.material import Asked
from nestling.report import Curve, Section, Table, bars, lines, write_page
from nestling.report.boxes import Box, nested_html, times
from nestling.report.coloured import coloured_html, scale_html

Found = Mapping[str, Any]


def report(path: Path, result: Result) -> Path:
    """Write the self-contained page of a finished demo."""
    metrics = result.metrics
    sections: list[Section] = []
    if "learning" in metrics:
        found = metrics["learning"]
        sections += [answers(found), surprises(found), kept(found), levels(found)]
    if "hope" in metrics:
        sections += [pairs(metrics["hope"]["pairs"]), text(metrics["hope"]["text"])]
    about = {k: v for k, v in result.provenance.items() if k != "versions"}
    about |= {**result.provenance["versions"], "minutes": f"{metrics['seconds'] / 60:.1f}"}
    return write_page(path, "nestling demo", sections, lead=headline(metrics), provenance=about)


def marks(found: Found, when: str, what: str = "asked") -> list[bool]:
    """Whether each question was answered correctly."""
    asked = [Asked(question, tuple(right)) for question, right in found[what]]
    return [one.right(said) for one, said in zip(asked, found[when][what], strict=True)]


def headline(metrics: Found) -> str:
    """The result in a sentence or two."""
    told = []
    if "learning" in metrics:
        found = metrics["learning"]
        before, after = (sum(marks(found, when)) for when in ("before", "after"))
        words = sum(len(text.split()) for _, text in found["documents"])
        rise = found["after"]["kept"] / found["before"]["kept"] - 1
        told.append(
            f"The model read a text of {words} words. It answered {before} of "
            f"{len(found['asked'])} questions about it correctly before, and {after} afterwards, "
            f"in a new process with an empty context; its loss on other text went from "
            f"{found['before']['kept']:.2f} to {found['after']['kept']:.2f} nats per token "
            f"({rise:+.1%})."
        )
    if "hope" in metrics:
        both = metrics["hope"]
        told.append(
            f"A small Hope trained here recalls {both['pairs']['on']:.0%} of the pairs that it has "
            f"read once, and {both['pairs']['off']:.0%} with its memory writes switched off."
        )
    return " ".join(told)


def answers(found: Found) -> Section:
    """Each question, before and after."""
    rows = [
        (question, " or ".join(right), _said(before, was), _said(after, now))
        for (question, right), before, was, after, now in zip(
            found["asked"],
            found["before"]["asked"],
            marks(found, "before"),
            found["after"]["asked"],
            marks(found, "after"),
            strict=True,
        )
    ]
    columns = ("question", "right answer", "before", "after, without the text")
    said = (
        "The answers after study come from a new process that had the model, the memory file "
        f"({found['memory_bytes'] / 1e6:.1f} MB) and the question, and nothing else. An answer "
        "counts as right if it contains the right words. Asked about the subject of a text, the "
        "model gives a sentence that it has read, or says that it finds none; other questions it "
        "may answer wrongly, as before study.\n\nAsk more: nestling ask "
        f'{found["model"]} "..." --memory {found["memory"]}'
    )
    return Section("What it answers", said, [Table(columns=columns, rows=rows)])


def _said(answer: str, right: bool) -> str:
    return f"{'right' if right else 'wrong'}: {' '.join(answer.split())}"


def surprises(found: Found) -> Section:
    """The loss of each token of the texts, before and after study."""
    parts = [scale_html()]
    for number, (name, _) in enumerate(found["documents"]):
        for when, title in (("before", "at the first reading"), ("after", "read again")):
            pieces = found[when]["read"][number]
            nats = [loss for _, loss in pieces if loss is not None]
            mean = sum(nats) / max(1, len(nats))
            parts.append(f"<h3>{_escaped(name)}, {title}: {mean:.2f} nats per token</h3>")
            parts.append(coloured_html([(text, loss) for text, loss in pieces]))
    said = (
        "The stronger the colour of a word, the less the model expected it. In both readings its "
        "context holds only the preceding words; better predictions come from its weights."
    )
    return Section("How surprising the text is", said, html=parts)


def _escaped(text: str) -> str:
    import html

    return html.escape(text)


def kept(found: Found) -> Section:
    """Questions and a text about other things, before and after."""
    before, after = found["before"], found["after"]
    rows = [
        (question, _said(was, a), _said(now, b))
        for (question, _), was, a, now, b in zip(
            found["general"],
            before["general"],
            marks(found, "before", "general"),
            after["general"],
            marks(found, "after", "general"),
            strict=True,
        )
    ]
    was, now = (f"{one['kept']:.3f} nats per token" for one in (before, after))
    rows.append(("loss on a text that was not learned", was, now))
    table = Table(columns=("asked or measured", "before", "after"), rows=rows)
    return Section("What was kept", "Knowledge from before it read the text.", [table])


def levels(found: Found) -> Section:
    """The three levels of a model that studies, and how often each was written."""
    study = found["study"]
    read = sum(len(pieces) for pieces in found["before"]["read"])
    bands = [
        [Box("the model's weights", "trained long ago", "never here")],
        [Box(f"what study writes, rank {study['rank']}", "by study", times(study["writes"]))],
        [Box("the context", "with every token", f"{times(read)}, then emptied")],
    ]
    made = sum(int(one["questions"]) for one in study["figures"])
    said = (
        f"Inner levels are written more often. Reading fills the context, {read} tokens; study "
        f"moves what it says into a small change of the weights, with {made} questions that the "
        f"model made itself, in {study['seconds']:,.0f} seconds; the pretrained weights stay as "
        "they are."
    )
    return Section("What was written", said, html=[nested_html(bands)])


def pairs(found: Found) -> Section:
    """Recall of pairs that are read once."""
    figure = bars(
        {**{TITLES[n]: (found[n], 0.0) for n in TITLES}, "chance": (found["chance"], 0.0)},
        x_label="share of questions answered correctly",
    )
    said = (
        f"A Hope of {found['parameters']:,} parameters, trained for a minute, reads "
        f"{found['pairs']} keys, each with a random value, and is asked for all the values later. "
        "It can know them only from what its memories wrote as it read. With the writes switched "
        "off, the same weights can only guess."
    )
    return Section("Pairs read once", said, figures=[figure])


def text(found: Found) -> Section:
    """Perplexity along held-out documents."""
    curves = {}
    for name, title in TITLES.items():
        stretches = found[name]["by_position"]
        middles = [(one["start"] + one["end"]) / 2 for one in stretches]
        curves[title] = Curve(middles, [math.exp(min(one["loss"], 700)) for one in stretches])
    figure = lines(
        curves,
        x_label="tokens of the document read so far",
        y_label="perplexity",
        log_x=True,
        log_y=True,
    )
    said = (
        f"A Hope of {found['parameters']:,} parameters, with its head as another level, after "
        f"{found['tokens']:,} tokens of {found['corpus']}. Its perplexity on "
        f"{found['on']['tokens']:,} held-out tokens is {found['on']['perplexity']:,.0f}, and "
        f"{found['off']['perplexity']:,.0f} with its memory writes switched off. It was trained "
        "with them on, so the difference shows how much it relies on them, not how well a model "
        "trained without them would do; one seed. The boxes are its levels, and how often each was "
        "written during training."
    )
    boxes = [[Box(*box) for box in band] for band in found["boxes"]]
    return Section("A text that it reads", said, figures=[figure], html=[nested_html(boxes)])
