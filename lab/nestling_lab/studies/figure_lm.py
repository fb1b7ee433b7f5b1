"""Eight systems trained on the same tokens: held-out perplexity, and commonsense."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from nestling.core.result import Result, provenance
from nestling.data import bigbench
from nestling.evals import Reader
from nestling.evals.commonsense import choose as answer
from nestling.evals.lm import choose as choose_text
from nestling.evals.lm import lm
from nestling.report import Section
from nestling.train import TrainConfig, train_config
from nestling.train.evaluate import perplexity
from nestling.train.flops import flops_per_token
from nestling_lab.published import published
from nestling_lab.studies.diverged import over
from nestling_lab.studies.lm_report import (
    COMMONSENSE,
    COST,
    HOPE,
    PAPER,
    SHOWN,
    answered,
    bits_table,
    by_position,
    commonsense_table,
    compared,
    cost_table,
    every_run,
    loss_of,
    notes,
    text_tables,
    training_curves,
)
from nestling_lab.studies.study import Cell, Finding, Study, Tell, silent
from nestling_lab.studies.text import Text, train_on_text
from nestling_lab.studies.tuned import Tuned, is_edge

PRINTED = ("Wiki ppl", "LMB ppl", "SIQA", "Avg")  # columns of the paper's table
# half the width and depth of the tiny presets; the widths of the feed-forward networks (of mamba2
# its inner width) are chosen for the parameters of Transformer++ within 2 %
SIZE = {"hidden_size": 128, "num_hidden_layers": 2, "num_heads": 4}
ATTENTION = {"attention.num_kv_heads": 2, "attention.window": 1024}
MODELS: dict[str, dict[str, Any]] = {
    HOPE: {**SIZE, "cms.intermediate_size": 96},
    "hope-attention": {**SIZE, **ATTENTION, "cms.intermediate_size": 192},
    "transformer": {**SIZE, **ATTENTION, "mlp.intermediate_size": 384},
    "samba": {
        **SIZE,
        "num_hidden_layers": 1,
        "attention.num_kv_heads": 2,
        "mlp.intermediate_size": 296,
    },
    "titans-lmm": {**SIZE, "mlp.intermediate_size": 200},
    "ttt-mlp": {**SIZE, "mlp.intermediate_size": 248},
    "mamba2": {**SIZE, "mamba2.inner_size": 192, "mamba2.state_size": 88},
    "gated-delta-net": {**SIZE, "mlp.intermediate_size": 248},
}


class FigureLm(Study):
    """Every model at every learning rate with the first seed, then its best rate with all seeds."""

    name = "figure-lm"
    question = "does Hope predict text better than seven other systems after the same tokens"

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Sizes of the study."""

        models: tuple[str, ...] = tuple(MODELS)
        seeds: tuple[int, ...] = (0, 1, 2)  # of weights and of the order of documents
        # the same grid for every model
        learning_rates: tuple[float, ...] = (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2)
        text: Text = field(default_factory=lambda: Text(corpus="standard"))
        # seed and learning rate are replaced in every cell
        train: TrainConfig = field(
            default_factory=lambda: TrainConfig(
                steps=300,
                batch_size=8,
                sequence_length=256,
                evaluate_tokens=65536,
                save_every=0,
                rates_by_role=False,
            )
        )
        lm_bytes: int = 100_000  # of held-out text for the figures by word and byte
        questions: int = 200  # first questions of each BIG-bench task; 0: none
        tasks: tuple[str, ...] = ("social_iqa", "goal_inference", "step_inference")

    def __init__(self, config: Config | None = None):
        self.config = config or FigureLm.Config()
        self.tuned = Tuned(
            models=self.config.models,
            settings=lambda model: self.config.learning_rates,
            seeds=self.config.seeds,
            cell=self.cell,
            loss=loss_of,
        )

    def cell(self, model: str, rate: float, seed: int) -> Cell:
        """One training run with its measurements."""
        own = self.config
        config = {
            "model": model,
            "preset": f"{model}-tiny",
            "overrides": MODELS[model],
            "text": dataclasses.asdict(own.text),
            "train": dataclasses.asdict(
                dataclasses.replace(own.train, learning_rate=rate, seed=seed)
            ),
            "lm_bytes": own.lm_bytes,
            "questions": own.questions,
            "tasks": list(own.tasks),
        }
        return Cell(f"{model}-lr{rate:g}-seed{seed}", config, seed)

    def cells(self, done: Mapping[str, Result]) -> list[Cell]:
        """The grids, and the other seeds at the best rates."""
        return self.tuned.cells(done)

    def run(self, cell: Cell, *, tell: Tell = silent, device: str = "cpu") -> Result:
        """Train one model; measure it on held-out text and on questions."""
        config = cell.config
        text = Text(**config["text"])
        prepared = text.prepare()
        # read the questions before the training, which takes minutes
        asked = {name: bigbench.read(name)[: config["questions"]] for name in config["tasks"]}
        model, metrics = train_on_text(
            config["preset"],
            config["overrides"],
            text,
            train_config(config["train"]),
            tell=tell,
            device=device,
        )
        metrics["flops_per_token"] = flops_per_token(model)
        if not metrics["diverged"]:
            reader = Reader(model.eval(), prepared.tokenizer, name=config["preset"])
            texts = choose_text(prepared.corpus.held_out, config["lm_bytes"])
            metrics["lm"] = lm(reader, texts)
            metrics["commonsense"] = {
                name: answer(reader, questions) for name, questions in asked.items() if questions
            }
        return Result(
            name=f"{self.name}/{cell.name}",
            config=config,
            metrics=metrics,
            seed=cell.seed,
            corpus=prepared.corpus.tag,
            provenance=provenance(device),
        )

    def find(self, done: Mapping[str, Result]) -> Finding:
        """Means with intervals, differences to Hope paired by seed, curves, the paper's numbers."""
        runs = {name: self.tuned.best_runs(name, done) for name in self.config.models}
        runs = {name: found for name, found in runs.items() if found}
        figures = {name: self._figures(name, found, done) for name, found in runs.items()}
        against = compared(runs)
        results, sizes = text_tables(figures, against, {})
        accuracies = commonsense_table(runs, self.config.tasks)
        sections = [
            Section("Method", self._about()),
            Section("Bits a byte", tables=[bits_table(figures)]),
            Section("Commonsense, offline", COMMONSENSE, [accuracies]),
            *([training_curves(runs), by_position(runs, {})] if runs else []),
            Section("Sizes and rates", notes(figures), [sizes]),
            Section("Cost of a run", COST, [cost_table(figures)]),
            Section("What the paper prints", PAPER, [published("language-760m", columns=PRINTED)]),
            Section("Every run", tables=[every_run(self.cells(done), done)]),
        ]
        metrics = {"models": figures, "above_hope": {k: v.record() for k, v in against.items()}}
        shown = Section("In short", SHOWN, [results] if runs else [])
        return Finding(metrics, sections, answered(figures, against), shown)

    def _figures(
        self, model: str, runs: Mapping[int, Result], done: Mapping[str, Result]
    ) -> dict[str, Any]:
        found = [result.metrics for result in runs.values()]
        rate = self.tuned.best(model, done)
        speeds = over(found, lambda m: m["tokens_per_second"])
        return {
            "learning_rate": rate,
            "rate_at_edge_of_grid": is_edge(rate, self.config.learning_rates),
            "seeds": sorted(runs),
            "num_parameters": found[0]["num_parameters"],
            "num_non_embedding": found[0]["num_non_embedding"],
            # from runs that did not diverge, if any
            "tokens": max(one.get("tokens", 0) for one in found),
            "flops_per_token": found[0]["flops_per_token"],
            "val_loss": over(found, lambda m: m["val_loss"]).record(),
            "val_perplexity": over(found, lambda m: perplexity(m["val_loss"])).record(),
            "word_perplexity": over(found, lambda m: m["lm"]["word_perplexity"]).record(),
            "bits_per_byte": over(found, lambda m: m["lm"]["bits_per_byte"]).record(),
            "tokens_per_second": speeds.record()["mean"],
        }

    def _about(self) -> str:
        text, train = self.config.text, self.config.train
        tokens = train.steps * train.batch_size * train.sequence_length * train.accumulation
        rates = ", ".join(f"{rate:g}" for rate in self.config.learning_rates)
        return (
            f"Each model reads the same tokens of {text.corpus} in the same order: {train.steps:,} "
            f"steps of {train.batch_size} x {train.sequence_length} positions, {tokens:,} in all. "
            "Parameters are equal within 2 %. Attention of Transformer++ and Hope-Attention sees "
            f"the last {ATTENTION['attention.window']:,} tokens of a document, Samba's the last "
            "128; every other memory has no such limit.\n\n"
            f"Every model is tuned alike: learning rates {rates} with seed {self.config.seeds[0]}; "
            "the best by held-out loss goes on with the other seeds. Everything else is the "
            "preset's. The rate is chosen on the text that is reported, for every model alike. "
            "Intervals are 95 %, by Student's t over the seeds. Operations are those of matrix "
            "products, forward and backward, for each token trained on."
        )
