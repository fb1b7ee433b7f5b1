"""nestling eval: evaluate any causal language model on a task."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from nestling.core.error import UserError


@dataclass(frozen=True, kw_only=True)
class Lm:
    """Perplexity of held-out text: per token, word and byte, and by position."""

    model: Path
    """Folder with a nestling model or any causal language model of transformers; or
    smollm2-135m-instruct, which is fetched on first use."""
    corpus: str = "stdlib"
    """Text: the held-out documents of a corpus that `nestling data list` names, or a path."""
    text: Path | None = None
    """A UTF-8 file instead of a corpus, read as one document."""
    size: int = 100_000
    """Minimum bytes of text, in whole documents; 0: all."""
    segment: int = 512
    """Tokens per call of the model; bounds the memory in use and changes no result."""
    batch: int = 4
    """Documents per batch."""
    windows: Literal["rolling", "apart"] = "rolling"
    """Windows of a document longer than the model's context: rolling, as in lm-eval (each follows
    the last token of the previous one), or apart (each starts afresh).
    """
    device: str = "cpu"
    """Torch device, such as cpu or cuda."""
    json: Path | None = None
    """File for the results, as JSON."""
    quiet: bool = False
    """Show no progress."""

    def run(self) -> None:
        """Evaluate, print the results, and write them where --json says."""
        if self.size < 0:
            raise UserError(f"size is {self.size}; give 0 or more bytes")
        from nestling.core.result import Result, provenance
        from nestling.data import load_corpus
        from nestling.data.textfiles import read_text
        from nestling.evals import Reader
        from nestling.evals.lm import choose, lm
        from nestling.report import Table
        from nestling.report.progress import Progress

        if self.text is None:
            corpus = load_corpus(self.corpus)
            texts, tag = choose(corpus.held_out, self.size or None), corpus.tag
        else:
            texts, tag = choose([read_text(self.text)], None), str(self.text)
        reader = Reader.load(self.model, self.device, segment=self.segment)
        with Progress("tokens read", quiet=self.quiet) as on:
            on.say(f"{len(texts):,} documents of {tag}")
            metrics = lm(reader, texts, batch_size=self.batch, kind=self.windows, tell=on.show)
        config = {"size": self.size, "segment": self.segment, "batch": self.batch}
        if self.json is not None:
            Result(
                name="eval lm",
                config=reader.about() | config,
                metrics=metrics,
                corpus=tag,
                provenance=provenance(self.device),
            ).write(self.json)
        for name in LM_FIGURES:
            print(f"{name:<16} {metrics[name]:,.6g}")
        rows = [
            (f"{part['start']:,} to {part['end']:,}", part["tokens"], part["loss"])
            for part in metrics["by_position"]
        ]
        print(Table(columns=("place in the document", "tokens", "loss"), rows=rows).text())


LM_FIGURES = ("tokens", "loss", "perplexity", "word_perplexity", "byte_perplexity", "bits_per_byte")


@dataclass(frozen=True, kw_only=True)
class Commonsense:
    """Commonsense through lm-eval (pip install 'nestling[eval]'; not needed for BIG-bench)."""

    model: Path
    """Folder with a nestling model or any causal language model of transformers; or
    smollm2-135m-instruct, which is fetched on first use."""
    data: str = "auto"
    """hub: the paper's tasks; bigbench: offline ones; auto: the hub if it can be reached."""
    tasks: str = ""
    """Names, separated by commas; by default all of them."""
    limit: int | None = None
    """Number of questions of each task, from its beginning."""
    carry: bool = False
    """Carry the memory from question to question; by default each starts fresh."""
    batch: int = 1
    """Requests per batch: larger is faster on an accelerator, or on a CPU with a small model."""
    chat: bool = False
    """Ask each question through the chat template of the model's tokenizer."""
    segment: int = 512
    """Tokens per call of the model; bounds the memory in use and changes no result."""
    device: str = "cpu"
    """Torch device, such as cpu or cuda."""
    json: Path | None = None
    """File for the results, as JSON."""
    quiet: bool = False
    """Show no progress."""

    def run(self) -> None:
        """Evaluate, print a table, and write the results where --json says."""
        if self.limit is not None and self.limit < 1:
            raise UserError(f"limit is {self.limit}; give at least 1 question")
        from nestling.core.result import Result, provenance
        from nestling.evals import Reader
        from nestling.evals.commonsense import commonsense
        from nestling.report import Table
        from nestling.report.progress import Progress

        reader = Reader.load(self.model, self.device, segment=self.segment)
        names = [name for name in self.tasks.split(",") if name]
        with Progress("answered", quiet=self.quiet) as on:
            metrics = commonsense(
                reader,
                data=self.data,
                tasks=names,
                limit=self.limit,
                carry=self.carry,
                batch=self.batch,
                chat=self.chat,
                say=on.say,
                tell=on.show,
            )
        if self.json is not None:
            config = {"data": metrics["data"], "limit": self.limit, "carry": self.carry}
            config |= {"batch": self.batch, "chat": self.chat}
            Result(
                name="eval commonsense",
                config=reader.about() | config | {"tasks": list(metrics["tasks"])},
                metrics=metrics,
                provenance=provenance(self.device),
            ).write(self.json)
        found = metrics["tasks"]
        columns = [name for name in COMMONSENSE if any(name in part for part in found.values())]
        rows = [(name, *(part.get(column) for column in columns)) for name, part in found.items()]
        print(Table(columns=("task", *columns), rows=rows).text())


COMMONSENSE = ("questions", "acc", "acc_norm", "chance", "perplexity", "word_perplexity")


@dataclass(frozen=True, kw_only=True)
class Tasks:
    """Tasks of this library; a preset, instead of a folder, is first trained on each of them."""

    model: str = ""
    """Folder with a model of ours or of transformers, or smollm2-135m-instruct; or a preset, with
    --fit. Required."""
    suite: tyro.conf.Suppress[str] = "tasks"
    tasks: str = ""
    """Names from `nestling list tasks`, separated by commas; by default the whole suite."""
    count: int | None = None
    """Examples of each task, or questions of each stage: 100, with --protocol as published."""
    lengths: tuple[int, ...] = ()
    """Text lengths in tokens, one measurement each; by default the task's own."""
    sweep: bool = False
    """Measure each task at all its difficulties: the default, then each change alone."""
    set: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """NAME=VALUE: an option of the task (length=2048), a setting of the training (batch_size=4) or
    of the preset (hidden_size=64); may be repeated."""
    fit: int = 0
    """Training steps on the task (or on each of its stages) before evaluation; 0: none."""
    protocol: bool = False
    """Train as the task's source does: its rows and epochs, its optimizer, and its grid of learning
    rates and weight decays, of which the best is kept. With --sweep, report the published score.
    --set epochs=N shortens training; learning_rate and weight_decay replace the grid by one value.
    """
    seed: int = 0
    """Seed of the examples, and of the weights and batches of a preset."""
    segment: int = 512
    """Tokens per call of the model; bounds the memory in use and changes no result."""
    device: str = "cpu"
    """Torch device, such as cpu or cuda."""
    json: Path | None = None
    """File for the results, as JSON."""
    quiet: bool = False
    """Show no progress."""

    def run(self) -> None:
        """Evaluate, print a table, and write the results where --json says."""
        if not self.model:
            raise UserError("no model given; give a folder with a model, or a preset, with --model")
        if (
            self.count is not None
            and self.count < 1
            or self.fit < 0
            or any(length < 1 for length in self.lengths)
        ):
            raise UserError(
                f"count is {self.count}, lengths {list(self.lengths)}, fit {self.fit}; give count "
                "and lengths of at least 1, fit of at least 0"
            )
        from nestling.cli.train import settings
        from nestling.evals.run import plan_of, run_tasks
        from nestling.evals.show import task_table
        from nestling.evals.suite import suite
        from nestling.report.progress import Progress

        names = [name for name in self.tasks.split(",") if name] or suite(self.suite)
        plan = plan_of(
            names,
            settings(self.set),
            seed=self.seed,
            count=self.count,
            lengths=self.lengths,
            sweep=self.sweep,
            fit=self.fit,
            protocol=self.protocol,
            segment=self.segment,
        )

        with Progress("answered", quiet=self.quiet) as on:
            result = run_tasks(
                self.model,
                names,
                plan,
                device=self.device,
                say=on.say,
                tell=on.show,
                quiet=self.quiet,
            )
        if self.json is not None:
            result.write(self.json)
        found = result.metrics["tasks"]
        print(task_table(found).text())
        for name, figures in found.items():
            for part, measured in figures.get("parts", {"": figures}).items():
                if "note" in measured:
                    print(f"{name}{part and ', '}{part}: {measured['note']}")


def of_suite(name: str, summary: str) -> Any:
    """The command that evaluates one suite."""
    blank = Tasks(suite=name)
    return Annotated[Tasks, tyro.conf.subcommand(name, default=blank, description=summary)]


Command = (
    Annotated[Lm, tyro.conf.subcommand("lm")]
    | Annotated[Commonsense, tyro.conf.subcommand("commonsense")]
    | of_suite("niah", "Needle in a haystack, as RULER defines it.")
    | of_suite("babilong", "Facts from bAbI, hidden in real prose.")
    | of_suite("recall", "In-context recall and related tasks.")
    | of_suite("mad", "The tasks of MAD; fit a preset to them.")
    | of_suite("formal", "Formal languages; fit a preset to them.")
    | of_suite("incremental", "Classes learned one set after another, by reading or by training.")
    | of_suite("translation", "Novel languages learned one after another.")
    | of_suite("tasks", "Any tasks, named by --tasks.")
)
