"""M3 against AdamW and Muon on small language models, with real text."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from nestling.core.result import Result, provenance
from nestling.data import IGNORED, Loader, evaluation_batches
from nestling.models import create
from nestling.report import Section
from nestling.train import evaluate
from nestling.train.schedule import rate as schedule
from nestling.train.step import read_batch, token_losses
from nestling_lab.studies.answers import NOTHING
from nestling_lab.studies.optimizers.entrants import ENTRANTS, clear_all, step_all
from nestling_lab.studies.optimizers.messy import mean
from nestling_lab.studies.optimizers.tuned import (
    COMPARED,
    Figures,
    against_each,
    place_of,
    table_of,
    tuned,
)
from nestling_lab.studies.optimizers.vision import OLD
from nestling_lab.studies.study import Cell, Finding, Study, Tell, silent
from nestling_lab.studies.text import Text

FIGURES = {"training loss": "train_loss", "held-out loss": "val_loss"}
CONTENDERS = ("adamw", "muon", "m3", "delta-row")
SIZE = {"hidden_size": 128, "num_hidden_layers": 2, "num_heads": 4}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "transformer": (
        "transformer-tiny",
        {**SIZE, "mlp.intermediate_size": 452, "attention.window": 1024},
    ),
    "hope": ("hope-tiny", {**SIZE, "cms.intermediate_size": 128}),
}


class Language(Study):
    """Every optimizer tuned over a grid of the same size, then repeated; held-out loss."""

    name = "optim-language"
    question = "does M3 train a language model to a lower loss than AdamW and Muon"

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Sizes of the study."""

        models: tuple[str, ...] = ("transformer",)  # "hope" takes about an hour more
        contenders: tuple[str, ...] = CONTENDERS
        seeds: tuple[int, ...] = (0, 1, 2)  # of weights and of the order of documents
        steps: int = 120
        warmup: float = 0.1  # fraction of the steps with a rising rate; a cosine follows
        batch_size: int = 8
        sequence_length: int = 256  # tokens
        max_norm: float = 1.0  # of all gradients together
        text: Text = field(default_factory=lambda: Text(corpus="stdlib-code"))

    def __init__(self, config: Config | None = None):
        self.config = config or Language.Config()

    def cell(self, model: str, contender: str) -> Cell:
        """The grid and all seeds of one optimizer on one model."""
        config = dataclasses.asdict(self.config)
        del config["contenders"], config["models"]
        preset, overrides = MODELS[model]
        config |= {
            "preset": preset,
            "overrides": overrides,
            "optimizer": contender,
            "rates": list(ENTRANTS[contender].rates),
        }
        return Cell(f"{model}-{contender}", config, self.config.seeds[0])

    def cells(self, done: Mapping[str, Result]) -> list[Cell]:
        """One cell per optimizer and model."""
        return [self.cell(m, c) for m in self.config.models for c in self.config.contenders]

    def run(self, cell: Cell, *, tell: Tell = silent, device: str = "cpu") -> Result:
        """Tune one optimizer on one model, then repeat the best rate with other seeds."""

        def attempt(rate: float, seed: int) -> Figures:
            def say(step: int, loss: float) -> None:
                tell(step, cell.config["steps"], loss)

            return learn(cell.config, rate, seed, say, device)

        metrics = tuned(
            attempt, rates=cell.config["rates"], seeds=cell.config["seeds"], chosen_by="val_loss"
        )
        return Result(
            name=f"{self.name}/{cell.name}",
            config=cell.config,
            metrics=metrics,
            seed=cell.seed,
            corpus=Text(**cell.config["text"]).prepare().corpus.tag,
            provenance=provenance(device),
        )

    def find(self, done: Mapping[str, Result]) -> Finding:
        """The held-out losses, and comparisons of each optimizer with AdamW and Muon."""
        metrics, tables, parts = {}, [], []
        for model in self.config.models:
            cells = {c: self.cell(model, c).name for c in self.config.contenders}
            found = {c: done[name].metrics for c, name in cells.items() if name in done}
            verdicts = against_each(found, OLD, "val_loss")
            metrics[model] = {"verdicts": verdicts, "records": found}
            tables += [table_of(found, verdicts, FIGURES, OLD)] if found else []
            if place := place_of(found, verdicts, "m3", "val_loss"):
                parts.append(f"{place} on {model}" if len(self.config.models) > 1 else place)
        sections = [Section("Method", self._about())]
        shown = Section("In short", COMPARED.format(loss="held-out loss"), tables)
        answer = f"M3's held-out loss {'; '.join(parts)}." if parts else NOTHING
        return Finding(metrics, sections, answer, shown)

    def _about(self) -> str:
        c = self.config
        tokens = c.steps * c.batch_size * c.sequence_length
        return (
            f"Language models ({', '.join(c.models)}) of {SIZE['num_hidden_layers']} layers of "
            f"{SIZE['hidden_size']} on {c.text.corpus}: {c.steps} steps of {c.batch_size} x "
            f"{c.sequence_length} tokens, {tokens:,} in all, the same for all; warm-up and cosine, "
            f"gradients clipped to {c.max_norm:g}, no weight decay. Five rates with one seed; the "
            "one of lowest held-out loss goes on with the others (the rate is chosen on the text "
            "that is reported, for every optimizer alike). Training loss: mean of the last tenth "
            "of the steps."
        )


def learn(
    config: Mapping[str, Any],
    rate: float,
    seed: int,
    say: Callable[[int, float], None],
    device: str = "cpu",
) -> Figures:
    """Train once from a seed; losses are in nats per token."""
    prepared = Text(**config["text"]).prepare()
    sizes = {name: config[name] for name in ("batch_size", "sequence_length")}
    sizes["align"] = config["text"]["align"]
    model = create(
        config["preset"], vocab_size=len(prepared.tokenizer), seed=seed, **config["overrides"]
    ).to(device)
    optimizers = ENTRANTS[config["optimizer"]].build(model, rate)
    batches = iter(Loader(prepared.train, seed=seed, **sizes))
    memory, losses, steps = None, [], config["steps"]
    for step in range(steps):
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate * schedule(step, steps=steps, warmup=config["warmup"])
        batch = next(batches)
        clear_all(optimizers)
        logits, memory = read_batch(model, batch, memory)
        count = int((batch.labels != IGNORED).sum())
        loss = token_losses(logits, batch.labels).sum() / max(1, count)
        losses.append(loss.item())
        if not math.isfinite(losses[-1]):
            return {"train_loss": math.nan, "val_loss": math.nan}
        loss.backward()
        memory = memory.detach()
        nn.utils.clip_grad_norm_(model.parameters(), config["max_norm"])
        step_all(optimizers)
        if step % 10 == 0:
            say(step, losses[-1])
    held_out = evaluate(model, evaluation_batches(prepared.held_out, **sizes))
    return {"train_loss": mean(losses[-max(1, steps // 10) :]), "val_loss": held_out.loss}
