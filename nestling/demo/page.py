"""The page of the demonstration: what was asked, what came out, and how far it reaches."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nestling.core.result import Result
from nestling.data import Prepared
from nestling.demo.contenders import CONTENDERS, FROZEN, HOPE, TRANSFORMER, WINDOW
from nestling.models.hf import HopeForCausalLM
from nestling.report import Curve, Section, Table, lines, write_page
from nestling.report.levels import levels_svg
from nestling.report.plots import position_curve
from nestling.train.evaluate import perplexity
from nestling.train.levels import nested_system

Metrics = Mapping[str, Mapping[str, Any]]  # of every contender, by its name
STUDY = "nestling study status demo-gap"
REACH = (
    "This is one seed and a short run, at one learning rate that was tuned for none of them: it "
    "shows that the parts work together, not which model is better. The claim is the committed "
    f"study demo-gap (several seeds, a grid of learning rates, intervals): {STUDY}."
)


def comparison(metrics: Metrics) -> Table:
    """One row a model: size, held-out figures, speed."""
    columns = (
        "model", "parameters", "non-embedding", "held-out perplexity", "held-out loss",
        "training tokens/s",
    )  # fmt: skip
    rows = [
        (
            CONTENDERS[name].title,
            own["num_parameters"],
            own["num_non_embedding"],
            own["val_perplexity"],
            own["val_loss"],
            round(own["tokens_per_second"]),
        )
        for name, own in metrics.items()
    ]
    return Table(columns=columns, rows=rows)


def positions(metrics: Metrics) -> Table:
    """Perplexity in stretches of positions, a column a model; the last stretch is open."""
    stretches = list(zip(*(own["val_by_position"] for own in metrics.values()), strict=True))
    rows = []
    for stretch in stretches:
        start, end = stretch[0]["start"], stretch[0]["end"]
        where = f"{start:,} to {end - 1:,}" if stretch is not stretches[-1] else f"from {start:,}"
        figures = (perplexity(bucket["loss"]) for bucket in stretch)
        rows.append((where, stretch[0]["tokens"], *figures))
    titles = [CONTENDERS[name].title for name in metrics]
    return Table(columns=("position in the document", "tokens", *titles), rows=rows)


def report(path: Path, result: Result, hope: HopeForCausalLM, text: Prepared) -> Path:
    """Write the page of a finished demonstration; needs nothing but itself."""
    models, train = result.metrics["models"], result.config["train"]
    tokens_per_step = train["sequence_length"] * train["accumulation"]
    sections = [
        Section("What was asked", f"{summary(result, text)}\n\n{REACH}"),
        Section("Held-out text", outcome(models), [comparison(models)]),
        loss_curves(models),
        along_documents(models),
        carried_over(result.metrics["memory"]),
        sampled(result.metrics["sample"]),
        picture(hope, tokens_per_step),
    ]
    lead = (
        "Hope, a language model that writes its memories while it reads, compared with the same "
        "model trained with its writes off and with a Transformer of its size; all three read the "
        "same text in the same order."
    )
    return write_page(
        path, "nestling demo", sections, lead=lead, provenance=origin(result, text.corpus.licence)
    )


def summary(result: Result, text: Prepared) -> str:
    """What was trained on what, in one paragraph."""
    train = result.config["train"]
    return (
        f"How well does each model predict text that it has not seen, after the same "
        f"{next(iter(result.metrics['models'].values()))['tokens']:,} tokens of {text.corpus.name} "
        f"({len(text.train):,} documents, {text.train.num_targets:,} tokens in all)? "
        f"{train['steps']:,} steps of {train['batch_size']} x {train['sequence_length']} "
        f"positions, AdamW at a rate of {train['learning_rate']:g}, vocabulary of "
        f"{len(text.tokenizer):,} tokens. Documents of their own are held out "
        f"({len(text.held_out):,}, {text.held_out.num_targets:,} tokens); near-duplicates of "
        "training text are not among them."
    )


def outcome(models: Metrics) -> str:
    """Which model came out lowest, and by how much Hope differs from the others."""
    best = min(models, key=lambda name: models[name]["val_loss"])
    gaps = [
        f"{models[name]['val_loss'] - models[HOPE]['val_loss']:+.3f} ({CONTENDERS[name].title})"
        for name in models
        if name != HOPE
    ]
    count = models[best]["val_tokens"]
    return (
        f"Lowest perplexity on {count:,} held-out tokens in this run: {CONTENDERS[best].title}. "
        f"Loss above Hope's, in nats a token: {', '.join(gaps)}. Speed counts training alone, on "
        "the machine named at the foot of the page."
    )


def loss_curves(models: Metrics) -> Section:
    """Training loss, step by step."""
    curves = {
        CONTENDERS[name].title: Curve(range(1, len(own["losses"]) + 1), own["losses"])
        for name, own in models.items()
    }
    figure = lines(curves, x_label="optimizer step", y_label="loss (nats a token)")
    text = "All models see the same batch at the same step, so they share its ups and downs."
    return Section("Training loss", text, figures=[figure])


def along_documents(models: Metrics) -> Section:
    """Perplexity by the place in held-out documents."""
    curves = {
        CONTENDERS[name].title: position_curve([own["val_by_position"]])
        for name, own in models.items()
    }
    figure = lines(
        curves,
        x_label="tokens of the document read so far",
        y_label="perplexity",
        log_x=True,
    )
    text = (
        "Each held-out document is read from its start to its end with fixed weights; what a "
        "model gains along the way it gains from what it keeps of the document. With the writes "
        "off the memories stay at their learned initial state. Stretches far from the start rest "
        "on few documents, and all stretches on different text: compare the models within one. "
        "The second figure does: how far a model's loss is below that with the writes off. "
        f"{CONTENDERS[TRANSFORMER].title} attends to the last {WINDOW:,} tokens of the document."
    )
    return Section(
        "As an unseen document is read", text, [positions(models)], [figure, gains(models)]
    )


def gains(models: Metrics) -> str:
    """Loss of the model with the writes off less that of each, by position; its own line is 0."""
    base = models[FROZEN]["val_by_position"]
    middles = [(bucket["start"] + bucket["end"]) / 2 for bucket in base]
    curves = {}
    for name, own in models.items():
        pairs = zip(base, own["val_by_position"], strict=True)
        curves[CONTENDERS[name].title] = Curve(middles, [a["loss"] - b["loss"] for a, b in pairs])
    return lines(
        curves,
        x_label="tokens of the document read so far",
        y_label="nats a token below writes off",
        log_x=True,
    )


def carried_over(memory: Mapping[str, Any]) -> Section:
    """The memory that went through a file into a new process."""
    rows = [
        ("tokens of an unseen document read before saving", memory["passage_tokens"]),
        ("size of the file, bytes", memory["memory_bytes"]),
        ("tokens written on, here and in the new process", memory["tokens_compared"]),
        ("the same tokens", "yes" if memory["same_tokens"] else "no"),
        ("largest difference of a logit", f"{memory['max_logit_difference']:.3g}"),
        ("the same without the memory, first token", f"{memory['without_memory']:.3g}"),
    ]
    text = (
        "What Hope remembers of a passage is a value. It was saved to a file; a new process "
        "loaded the model and the file, and went on."
    )
    return Section("A memory in a file", text, [Table(columns=("what", "value"), rows=rows)])


def sampled(sample: Mapping[str, str]) -> Section:
    """Text that Hope and the Transformer wrote after the same prompt."""
    parts = [f"{sample['prompt']}"]
    for name in (HOPE, TRANSFORMER):
        parts.append(f"--- {CONTENDERS[name].title} goes on ---\n{sample[name]}")
    text = (
        "The start of an unseen document, then what the models write (temperature 0.8, of the 50 "
        "most likely tokens). After so little training it is the form of the text more than sense."
    )
    return Section("A sample", text, listing="\n\n".join(parts))


def picture(hope: HopeForCausalLM, tokens_per_step: int) -> Section:
    """The nested system of Hope and its optimizer, as a drawing."""
    drawing = levels_svg(nested_system(hope, "adamw", tokens_per_step), "Hope trained by AdamW")
    # its letters are small: let it be scrolled instead of shrunk to the width of the page
    drawing = drawing.replace("<svg ", '<svg style="max-width: none" ', 1)
    text = (
        "Every box is a memory that is written at its own frequency, fast at the top: from the "
        "memories that each text writes as it is read to the weights that training writes."
    )
    return Section("The nested system", text, figures=[drawing])


def origin(result: Result, licence: str) -> dict[str, Any]:
    """Where the figures come from, for the foot of the page."""
    record = {key: value for key, value in result.provenance.items() if key != "versions"}
    return {
        **record,
        **result.provenance["versions"],
        "corpus": result.corpus,
        "licence of the corpus": licence,
        "seed": result.seed,
        "minutes": f"{result.metrics['seconds'] / 60:.1f}",
    }
