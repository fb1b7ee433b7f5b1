"""Does a memory that has read a long text still learn what it reads next?"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from nestling.core.result import Result, provenance
from nestling.core.statistics import interval, paired
from nestling.data import prepare
from nestling.evals.questions import Questions, unseen_examples
from nestling.memories.self_titans import SelfTitans
from nestling.models import HopeForCausalLM, create
from nestling.models.cache import MemoryCache
from nestling.models.decode import read
from nestling.report import Section, Table
from nestling.tasks import Examples
from nestling.tasks.recall import Recall
from nestling.train import NotFinite, TrainConfig, train, train_config
from nestling_lab.studies.answers import NOTHING, grouped, share
from nestling_lab.studies.in_text import InText
from nestling_lab.studies.study import Cell, Finding, Study, Tell, silent

PERIOD = 32  # tokens; the period of the preset's memories
TASK = Recall.Config(period=PERIOD)


@torch.no_grad()
def recalled(
    model: HopeForCausalLM, task: Recall, test: Examples, cache: MemoryCache | None
) -> float:
    """The accuracy on sequences that are each read after ``cache``."""
    correct = []
    for part in test.input_ids.split(50):
        rows = None if cache is None else cache.fork()
        if rows is not None:
            rows.batch_repeat_interleave(len(part))
        out = model(input_ids=part.to(model.device), past_key_values=rows, use_cache=True)
        correct.append(out.logits.argmax(-1).cpu())
    return task.score(torch.cat(correct), test.labels)


def reach(model: HopeForCausalLM, cache: MemoryCache) -> dict[str, float]:
    """|M(x) - x| of every memory in every layer, relative to its value before the first token."""
    found = {}
    for index, (block, state) in enumerate(
        zip(model.backbone.each(), cache.states or [], strict=False)
    ):
        if isinstance(block.memory, SelfTitans):
            before, now = block.memory.reach(), block.memory.reach(state)
            found |= {f"{index}.{name}": now[name] / before[name] for name in now}
    return found


def after_text(
    model: HopeForCausalLM, task: Recall, test: Examples, text: Tensor, marks: tuple[int, ...]
) -> dict[str, Any]:
    """The accuracy after each of ``marks`` tokens of a text, and the reach of memories at the end.

    The text is read once, without a reset; at each mark, copies of the memory read the test.
    """
    model.eval()
    accuracy, cache, begin = {0: recalled(model, task, test, None)}, model.new_cache(), 0
    for mark in marks:
        with torch.no_grad():
            _, cache = read(model, text[None, begin:mark], cache, segment=64 * PERIOD)
        accuracy[mark] = recalled(model, task, test, cache)
        begin = mark
    return {"accuracy": {str(n): value for n, value in accuracy.items()}} | {
        "reach": reach(model, cache)
    }


class RecallAfterText(Study):
    """A small Hope learns to recall, then to recall within text, and then reads a long text."""

    name = "recall-after-text"
    question = "does a Hope that has read 100,000 tokens of real text still recall what comes next"

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Sizes of the study."""

        seeds: tuple[int, ...] = (0, 1, 2)  # of weights, examples and places in the text
        preset: str = "hope-tiny"  # source of the memories and their options
        overrides: dict[str, Any] = field(
            default_factory=lambda: {
                "num_hidden_layers": 2,
                "hidden_size": 128,
                "num_heads": 4,
                # a tied head would pull together embeddings that it never has to distinguish
                "tie_word_embeddings": False,
            }
        )
        task: Recall.Config = field(default_factory=lambda: TASK)
        corpus: str = "stdlib"  # read as bytes: training text, and held-out text for the test
        spans: tuple[int, ...] = (1, 2, 4, 8)  # batches between two resets within the text
        thin: int = 8  # one in ``thin`` positions of the text is a label
        test_count: int = 200  # sequences, of seeds that training never uses
        marks: tuple[int, ...] = (1024, 4096, 16384, 100_000)  # tokens of held-out text read
        alone: TrainConfig = field(
            default_factory=lambda: TrainConfig(
                steps=250,
                batch_size=32,
                sequence_length=Recall(TASK).length,
                learning_rate=3e-3,
                rates_by_role=False,
                carry=False,
                save_every=0,
            )
        )
        in_text: TrainConfig = field(
            default_factory=lambda: TrainConfig(
                steps=150,
                batch_size=32,
                sequence_length=256,
                learning_rate=3e-3,
                save_every=0,
                rates_by_role=False,
            )
        )

    def __init__(self, config: Config | None = None):
        self.config = config or RecallAfterText.Config()

    def cell(self, seed: int) -> Cell:
        """One model, trained in two stages."""
        config = dataclasses.asdict(self.config)
        del config["seeds"]
        for stage in ("alone", "in_text"):
            config[stage]["seed"] = seed
        return Cell(f"seed{seed}", config, seed)

    def cells(self, done: Mapping[str, Result]) -> list[Cell]:
        """One cell per seed."""
        return [self.cell(seed) for seed in self.config.seeds]

    def run(self, cell: Cell, *, tell: Tell = silent, device: str = "cpu") -> Result:
        """Train on recall alone and measure, then train within text and measure again."""
        config = cell.config
        task = Recall(Recall.Config(**config["task"]))
        prepared = prepare(config["corpus"], tokenizer="bytes")
        vocabulary = task.vocab_size + len(prepared.tokenizer)
        model = create(
            config["preset"], vocab_size=vocabulary, seed=cell.seed, **config["overrides"]
        ).to(device)
        alone, in_text = train_config(config["alone"]), train_config(config["in_text"])
        stages = {
            "alone": (alone, Questions(task, batch_size=alone.batch_size, seed=cell.seed)),
            "in_text": (
                in_text,
                InText(
                    task,
                    prepared.train.ids,
                    batch_size=in_text.batch_size,
                    length=in_text.sequence_length,
                    spans=tuple(config["spans"]),
                    thin=config["thin"],
                    seed=cell.seed,
                ),
            ),
        }
        test = unseen_examples(task, seed=cell.seed, count=config["test_count"])
        text = prepared.held_out.ids.long() + task.vocab_size
        metrics: dict[str, Any] = {"diverged": False, "chance": task.chance}
        total, past = alone.steps + in_text.steps, 0
        try:
            for name, (stage, loader) in stages.items():

                def after_step(run: Any, past: int = past) -> None:
                    tell(past + run.totals.step, total, run.totals.loss)

                trained = train(model, loader, stage, quiet=True, after_step=after_step)
                marks = tuple(config["marks"])
                metrics[name] = trained | after_text(model, task, test, text.to(device), marks)
                past += stage.steps
        except NotFinite as error:
            metrics |= {"diverged": True, "reason": str(error)}
        return Result(
            name=f"{self.name}/{cell.name}",
            config=config,
            metrics=metrics,
            seed=cell.seed,
            corpus=prepared.corpus.tag,
            provenance=provenance(device),
        )

    def find(self, done: Mapping[str, Result]) -> Finding:
        """The accuracy by tokens read, after each stage, and the smallest reach of a memory."""
        runs = {
            seed: done[self.cell(seed).name].metrics
            for seed in self.config.seeds
            if self.cell(seed).name in done
        }
        sound = {seed: found for seed, found in runs.items() if not found["diverged"]}
        marks = [0, *self.config.marks]
        rows, means = [], []
        for stage, title in STAGES.items():
            curves = {seed: accuracies(found.get(stage), marks) for seed, found in runs.items()}
            rows += [(title, seed, *curve) for seed, curve in curves.items()]
            if curves:
                columns = zip(*curves.values(), strict=True)
                means.append((title, *(str(interval(list(column))) for column in columns)))
        last = str(marks[-1])
        final = [found["in_text"] for found in sound.values()]
        metrics = {
            "seeds": list(sound),
            "diverged": sorted(runs.keys() - sound.keys()),
            "accuracy_before": [found["accuracy"]["0"] for found in final],
            "accuracy_after": [found["accuracy"][last] for found in final],
            "points_lost": [
                100 * (found["accuracy"]["0"] - found["accuracy"][last]) for found in final
            ],
            "least_reach": [min(found["reach"].values()) for found in final],
        }
        alive = list(zip(metrics["seeds"], metrics["least_reach"], strict=True))
        read_columns = [f"after {n:,}" for n in marks]
        shown = Section(
            "In short",
            "Share of fresh pairs that are recalled, by the tokens of text read before them.",
            [Table(columns=("trained on", *read_columns), rows=means)] if means else [],
        )
        sections = [
            Section("Method", self._about()),
            Section(
                "Seed by seed",
                tables=[Table(columns=("trained on", "seed", *read_columns), rows=rows)],
            ),
            Section(
                "Are the memories alive?",
                "Length of M(x) - x over random unit x after the text, as a share of what it was "
                "before the first token: the least of all memories of all layers.",
                [Table(columns=("seed", "least share"), rows=alive)],
            ),
        ]
        return Finding(metrics, sections, answer(metrics, marks[-1]), shown)

    def _about(self) -> str:
        config, task = self.config, Recall(self.config.task)
        return (
            f"A two-layer Hope first learns to recall {task.config.keys} pairs that it reads once "
            f"({config.alone.steps:,} steps of {config.alone.batch_size} sequences, each from a "
            f"fresh memory); after this stage it has seen no text. Then it learns to read "
            f"{config.corpus}, byte by byte, and to recall pairs within it "
            f"({config.in_text.steps:,} steps of {config.in_text.batch_size} x "
            f"{config.in_text.sequence_length} tokens; the memory goes on for up to "
            f"{max(config.spans) * config.in_text.sequence_length:,} tokens).\n\n"
            "After each stage it reads held-out text without a reset. At each of several lengths, "
            f"copies of its memory read {config.test_count} unseen sequences of pairs and are "
            f"asked for them; chance is {task.chance:g}. Intervals are 95 % over the seeds."
        )


def answer(metrics: Mapping[str, Any], tokens: int) -> str:
    """Whether as much is recalled after the text as before it."""
    before, after = metrics["accuracy_before"], metrics["accuracy_after"]
    if not after:
        return NOTHING
    now, then = (share(interval(values).mean) for values in (after, before))
    told = f"after {tokens:,} tokens a Hope that was trained within text recalls {now} of new pairs"
    if after == before:
        return f"Yes: {told}, as many as before."
    _, below, _ = grouped({"after": paired(after, before)})
    if below:
        return f"Less: {told}, significantly fewer than before ({then})."
    return f"Yes: {told}, not significantly different from before ({then})."


def accuracies(stage: Mapping[str, Any] | None, marks: Sequence[int]) -> list[float]:
    """The accuracy at each mark; NaN if the run diverged before the end of the stage."""
    return [math.nan if stage is None else stage["accuracy"][str(n)] for n in marks]


STAGES = {"alone": "recall alone", "in_text": "recall alone, then in text"}
