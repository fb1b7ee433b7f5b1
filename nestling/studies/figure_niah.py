"""Needles in a haystack: trained at one length, asked at up to sixteen times that length."""

import dataclasses
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from nestling.core.result import Result, provenance
from nestling.core.statistics import interval, paired
from nestling.data import Batch, prepare
from nestling.evals import Reader
from nestling.evals.answer import ask_texts
from nestling.evals.fit import words
from nestling.evals.questions import Questions, TextQuestions
from nestling.evals.requests import Ask, Memory
from nestling.models import create
from nestling.report import Section, Table
from nestling.report.plots import accuracy_by_length
from nestling.report.published import published
from nestling.studies.figure_lm import MODELS as SHAPES
from nestling.studies.figure_lm import SIZE
from nestling.studies.study import Cell, Finding, Study, Tell, silent
from nestling.studies.text import embedding_parameters
from nestling.studies.tuned import Tuned
from nestling.tasks import TASKS, UNSEEN, QuestionTask
from nestling.train import NotFinite, TrainConfig, train, train_config
from nestling.train.flops import flops_per_token

HOPE = "hope"
WINDOWED = "transformer-window"
# as in figure-lm, but that the head is no embedding: else it draws together what it never has to
# tell apart. Transformer++ sees all of the text, or a window of the length it was trained at
MODELS: dict[str, dict[str, Any]] = {
    HOPE: {**SHAPES[HOPE]},
    "titans-lmm": {**SHAPES["titans-lmm"]},
    "ttt-mlp": {**SHAPES["ttt-mlp"]},
    "mamba2": {**SHAPES["mamba2"]},
    "transformer": {**SHAPES["transformer"], "attention.window": None},
    WINDOWED: {**SHAPES["transformer"], "attention.window": 256},
}
PRESET = {WINDOWED: "transformer"}
TITLES = {
    "niah-1": "S-NIAH-1 (pass key in noise)",
    "niah-2": "S-NIAH-2 (number in prose)",
    "niah-3": "S-NIAH-3 (UUID in prose)",
}
SPARE = 2  # tokens that may be generated beyond those of the right answer


class Mixed(Questions):
    """Batches of several sources in turn."""

    def __init__(self, sources: list[TextQuestions]):
        self.sources, self.batches = sources, 0

    def __next__(self) -> Batch:
        """The next batch of the source whose turn it is; there always is one."""
        rounds, turn = divmod(self.batches, len(self.sources))
        self.batches += 1
        source = self.sources[turn]
        source.batches = rounds
        return next(source)


class FigureNiah(Study):
    """First every model at every learning rate with the first seed, then its best at all seeds."""

    name = "figure-niah"
    question = "are needles found in texts up to sixteen times as long as those of training"

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Sizes of the study."""

        models: tuple[str, ...] = tuple(MODELS)
        seeds: tuple[int, ...] = (0, 1, 2)  # of weights and of the examples
        # the same grid for every model
        learning_rates: tuple[float, ...] = (2e-3, 4e-3, 8e-3)
        tasks: tuple[str, ...] = tuple(TITLES)  # one model learns all of them
        corpus: str = "anarchism"  # of the tokenizer and of the prose
        vocab_size: int = 2048  # tokens of the BPE trained on it
        length: int = 256  # tokens of a training text, its answer included
        answer_room: int = 24  # of the length, for the answer
        times: tuple[int, ...] = (1, 2, 4, 8, 16)  # lengths of the tests, in training lengths
        count: int = 20  # questions of each task and length
        # the seed and the learning rate in it are replaced, cell by cell
        train: TrainConfig = field(
            default_factory=lambda: TrainConfig(
                steps=600, batch_size=8, sequence_length=256, carry=False, save_every=0
            )
        )

    def __init__(self, config: Config | None = None):
        self.config = config or FigureNiah.Config()
        self.tuned = Tuned(
            models=self.config.models,
            rates=self.config.learning_rates,
            seeds=self.config.seeds,
            cell=self.cell,
            loss=loss_of,
        )

    def cell(self, model: str, rate: float, seed: int) -> Cell:
        """One model, trained on all tasks and asked at all lengths."""
        config = dataclasses.asdict(self.config)
        for name in ("models", "seeds", "learning_rates"):
            del config[name]
        config |= {"model": model, "preset": f"{PRESET.get(model, model)}-tiny"}
        config["overrides"] = {**MODELS[model], "tie_word_embeddings": False}
        config["train"] |= {"learning_rate": rate, "seed": seed}
        return Cell(f"{model}-lr{rate:g}-seed{seed}", config, seed)

    def cells(self, done: Mapping[str, Result]) -> list[Cell]:
        """The grids, and the other seeds at each best rate."""
        return self.tuned.cells(done)

    def run(self, cell: Cell, *, tell: Tell = silent, device: str = "cpu") -> Result:
        """Train on texts of one length, ask at every length."""
        config = cell.config
        prepared = prepare(config["corpus"], vocab_size=config["vocab_size"])
        size = len(prepared.tokenizer)
        model = create(config["preset"], vocab_size=size, seed=cell.seed, **config["overrides"])
        reader = Reader(model.to(device), prepared.tokenizer, name=config["model"])
        trained = train_config(config["train"])

        def task(name: str, length: int) -> QuestionTask:
            kind = TASKS.load(name)
            shape = kind.Config(length=length, answer_room=config["answer_room"])
            return kind(shape, material=prepared.corpus, count=lambda x: len(reader.encode(x)))

        loader = Mixed(
            [
                TextQuestions(
                    task(name, config["length"]),
                    batch_size=trained.batch_size,
                    seed=cell.seed,
                    **words(reader),
                )
                for name in config["tasks"]
            ]
        )
        metrics: dict[str, Any] = {
            "num_parameters": model.num_parameters(),
            "num_non_embedding": model.num_parameters() - embedding_parameters(model),
            "flops_per_token": flops_per_token(model),
            "diverged": False,
        }

        def after_step(run: Any) -> None:
            tell(run.totals.step, trained.steps, run.totals.loss)

        begin = time.monotonic()
        try:
            found = train(model, loader, trained, quiet=True, after_step=after_step)
            metrics |= found | {"seconds_fit": time.monotonic() - begin}
            model.eval()
            here = [task(name, config["length"]) for name in config["tasks"]]
            losses = [answer_loss(reader, one, cell.seed, config["count"]) for one in here]
            metrics["answer_loss"] = sum(losses) / len(losses)
            metrics["accuracy"] = {
                name: {
                    str(length): asked(reader, task(name, length), cell.seed, config["count"])
                    for length in (times * config["length"] for times in config["times"])
                }
                for name in config["tasks"]
            }
        except NotFinite as error:
            metrics |= {"diverged": True, "reason": str(error)}
        return Result(
            name=f"{self.name}/{cell.name}",
            config=config,
            metrics=metrics | {"seconds": time.monotonic() - begin},
            seed=cell.seed,
            corpus=prepared.corpus.tag,
            provenance=provenance(device),
        )

    def find(self, done: Mapping[str, Result]) -> Finding:
        """A heat map and a table for each task, costs, the paper's numbers, every run."""
        runs = {name: self.tuned.chosen(name, done) for name in self.config.models}
        sound = {
            name: {seed: r.metrics for seed, r in found.items() if not r.metrics["diverged"]}
            for name, found in runs.items()
        }
        sound = {name: found for name, found in sound.items() if found}
        sections = [Section("What was asked", self._about())]
        metrics: dict[str, Any] = {"models": {}}
        for name, found in sound.items():
            metrics["models"][name] = {
                "learning_rate": self.tuned.best(name, done),
                "rate_at_edge_of_grid": self.tuned.at_edge(name, done),
                "seeds": sorted(found),
                "num_parameters": next(iter(found.values()))["num_parameters"],
                "accuracy": {
                    task: {
                        str(length): interval(
                            [one["accuracy"][task][str(length)]["score"] for one in found.values()]
                        ).record()
                        for length in self.lengths
                    }
                    for task in self.config.tasks
                },
            }
        if not sound:
            none = "No model has finished its grid of learning rates yet."
            sections.append(Section("What held", none))
        else:
            sections.append(Section("What held", self._verdict(sound)))
            sections += [self._task(task, sound) for task in self.config.tasks]
            sections.append(Section("Cost of a run", tables=[self._cost(sound, done)]))
        columns = tuple(f"S-NIAH-{i} {length}" for i in (1, 2, 3) for length in ("4K", "8K", "16K"))
        paper = published("niah", columns=columns)
        sections += [
            Section("What the paper prints", PAPER, [paper]),
            Section("Every run", tables=[self._runs(done)]),
        ]
        return Finding(metrics, sections)

    @property
    def lengths(self) -> list[int]:
        """Tokens of the texts asked about."""
        return [times * self.config.length for times in self.config.times]

    def _about(self) -> str:
        config = self.config
        rates = ", ".join(f"{rate:g}" for rate in config.learning_rates)
        return (
            f"One model learns {', '.join(TITLES[task] for task in config.tasks)} together: "
            f"{config.train.steps:,} steps of {config.train.batch_size} texts of at most "
            f"{config.length} tokens (a BPE of {config.vocab_size:,} on {config.corpus}, whose "
            "training documents are the haystack); only the answer is a label. Then it is asked "
            f"{config.count} unseen questions of each task at {config.length} tokens and at up to "
            f"{max(config.times)} times as many, from held-out documents; a text is read in "
            "segments with the memory carried along, and the answer generated. A score is the "
            "share of answers that hold the value. "
            f"Every model is tuned alike: learning rates {rates} with seed {config.seeds[0]}, the "
            "best by the loss of the right answers to unseen questions at the length of training "
            "goes on with the other seeds. "
            "Intervals are 95 %, by Student's t over the seeds. Transformer++ is there twice: "
            "seeing all of the text, and through a window of "
            f"{MODELS[WINDOWED]['attention.window']} tokens. Width {SIZE['hidden_size']}, "
            f"{SIZE['num_hidden_layers']} layers."
        )

    def _verdict(self, runs: Mapping[str, Mapping[int, Mapping[str, Any]]]) -> str:
        """What is kept of the score from the length of training to the longest, model by model."""
        first, last = (str(length) for length in (self.lengths[0], self.lengths[-1]))
        sentences = []
        for task in self.config.tasks:
            parts = []
            for model, found in runs.items():
                pairs = [
                    (one["accuracy"][task][last]["score"], one["accuracy"][task][first]["score"])
                    for one in found.values()
                ]
                ends, starts = zip(*pairs, strict=True)
                gap = paired(ends, starts)
                note = "" if gap.p_t is None else f", p = {gap.p_t:.2g}"
                start, end = (sum(x) / len(x) for x in (starts, ends))
                parts.append(f"{model} {start:.2f} to {end:.2f}{note}")
            sentences.append(f"{TITLES[task]}, from {first} to {last} tokens: {'; '.join(parts)}.")
        return "\n\n".join(sentences)

    def _task(self, task: str, runs: Mapping[str, Mapping[int, Mapping[str, Any]]]) -> Section:
        scores = {
            model: {
                length: interval(
                    [one["accuracy"][task][str(length)]["score"] for one in found.values()]
                )
                for length in self.lengths
            }
            for model, found in runs.items()
        }
        rows = [(model, *(str(found[n]) for n in self.lengths)) for model, found in scores.items()]
        table = Table(columns=("model", *(f"{n:,} tokens" for n in self.lengths)), rows=rows)
        means = {
            model: {n: one.mean for n, one in found.items()} for model, found in scores.items()
        }
        return Section(TITLES[task], tables=[table], figures=[accuracy_by_length(means)])

    def _cost(
        self, runs: Mapping[str, Mapping[int, Mapping[str, Any]]], done: Mapping[str, Result]
    ) -> Table:
        rows = []
        for model, found in runs.items():
            one = next(iter(found.values()))
            edge = " *" if self.tuned.at_edge(model, done) else ""
            rate = self.tuned.best(model, done) or math.nan
            rows.append(
                (
                    model,
                    one["num_parameters"],
                    one["num_non_embedding"],
                    f"{rate:g}{edge}",
                    len(found),
                    one["flops_per_token"] / 1e6,
                    interval([x["seconds_fit"] for x in found.values()]).mean,
                    interval([x["seconds"] for x in found.values()]).mean,
                )
            )
        columns = (
            "model", "parameters", "non-embedding", "rate (*: edge of the grid)", "seeds",
            "Mflop a token", "seconds of training", "seconds in all",
        )  # fmt: skip
        return Table(columns=columns, rows=rows)

    def _runs(self, done: Mapping[str, Result]) -> Table:
        rows = []
        for cell in self.cells(done):
            result = done.get(cell.name)
            if result is None or result.metrics["diverged"]:
                rows.append((cell.name, "to do" if result is None else "diverged", None, None))
            else:
                found = result.metrics
                first = str(self.lengths[0])
                scores = [one[first]["score"] for one in found["accuracy"].values()]
                mean = sum(scores) / len(scores)
                rows.append((cell.name, "finished", found["answer_loss"], mean))
        columns = (
            "cell", "state", "loss of unseen answers (nats a token)",
            "mean score at the length of training",
        )  # fmt: skip
        return Table(columns=columns, rows=rows)


PAPER = (
    "Models trained as language models on 50 billion tokens, not on the task; size not stated, one "
    "run each, no interval. Their lengths are 4K, 8K and 16K tokens."
)


def asked(reader: Reader, task: QuestionTask, seed: int, count: int) -> dict[str, Any]:
    """The figures of one task at one length."""
    (example,) = task.examples(seed, 1)
    room = len(reader.encode(example.joint + example.answers[0])) + SPARE
    return ask_texts(reader, task, seed=seed, count=count, new_tokens=2 * room)


def answer_loss(reader: Reader, task: QuestionTask, seed: int, count: int) -> float:
    """Nats for each token of the right answers to unseen questions: falls before a score rises."""
    asks = []
    for question in task.examples(UNSEEN + seed, count):
        context = (*reader.start, *reader.encode(question.prompt))
        asks.append(Ask(context, tuple(reader.encode(question.joint + question.answers[0]))))
    found = Memory(reader).score(asks)
    return -sum(score for score, _ in found) / sum(len(ask.continuation) for ask in asks)


def loss_of(result: Result) -> float:
    """The mean over tasks of ``answer_loss``; infinite for a run that diverged."""
    return math.inf if result.metrics["diverged"] else result.metrics["answer_loss"]
