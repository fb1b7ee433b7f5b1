"""M3 against AdamW and Muon on a vision transformer, as in Figure 11, but at a small size."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn import functional

from nestling.core.result import Result, provenance
from nestling.data.fashion import Pictures, pictures
from nestling.report import Section
from nestling.train.schedule import rate as schedule
from nestling_lab.studies.answers import NOTHING
from nestling_lab.studies.optimizers.entrants import ENTRANTS, clear_all, step_all
from nestling_lab.studies.optimizers.messy import judged, mean
from nestling_lab.studies.optimizers.tuned import (
    COMPARED,
    Figures,
    against_each,
    place_of,
    table_of,
    tuned,
)
from nestling_lab.studies.optimizers.vit import VitConfig, create_vit
from nestling_lab.studies.study import Cell, Finding, Study, Tell, silent

CONTENDERS = ("adamw", "muon", "m3", "momentum", "delta-row")
OLD = ("adamw", "muon")
FIGURES = {
    "training loss": "train_loss",
    "test loss": "test_loss",
    "test accuracy": "test_accuracy",
}


class Vision(Study):
    """Every optimizer tuned over a grid of the same size, then repeated; train and test loss."""

    name = "optim-vision"
    question = "does M3 train a vision transformer to a lower loss than AdamW and Muon (Fig 11)"

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Sizes of the study."""

        contenders: tuple[str, ...] = CONTENDERS
        seeds: tuple[int, ...] = (0, 1, 2)  # of weights and of the order of pictures
        steps: int = 600
        warmup: float = 0.1  # fraction of the steps with a rising rate; a cosine follows
        batch_size: int = 64
        validation: int = 5000  # held-out training pictures, to choose the learning rate
        model: VitConfig = field(default_factory=VitConfig)

    def __init__(self, config: Config | None = None, load: Callable[[str], Pictures] = pictures):
        self.config = config or Vision.Config()
        self.load = load

    def cell(self, contender: str) -> Cell:
        """The grid and all seeds of one optimizer."""
        config = dataclasses.asdict(self.config)
        del config["contenders"]
        config |= {"optimizer": contender, "rates": list(ENTRANTS[contender].rates)}
        return Cell(contender, config, self.config.seeds[0])

    def cells(self, done: Mapping[str, Result]) -> list[Cell]:
        """One cell per optimizer."""
        return [self.cell(contender) for contender in self.config.contenders]

    def run(self, cell: Cell, *, tell: Tell = silent, device: str = "cpu") -> Result:
        """Tune one optimizer, then repeat the best rate with other seeds."""
        train, test = self.load("train"), self.load("test")
        count = cell.config["validation"]
        order = torch.randperm(len(train.labels), generator=torch.Generator().manual_seed(1))
        kept, rest = train.pick(order[:count]), train.pick(order[count:])

        def attempt(rate: float, seed: int) -> Figures:
            def say(step: int, loss: float) -> None:
                tell(step, cell.config["steps"], loss)

            return learn(cell.config, rest, kept, test, rate, seed, say)

        metrics = tuned(
            attempt,
            rates=cell.config["rates"],
            seeds=cell.config["seeds"],
            chosen_by="validation_loss",
        )
        model = create_vit(VitConfig(**cell.config["model"]), 0)
        metrics["num_parameters"] = sum(p.numel() for p in model.parameters())
        return Result(
            name=f"{self.name}/{cell.name}",
            config=cell.config,
            metrics=metrics,
            seed=cell.seed,
            corpus="fashion-mnist",
            provenance=provenance(device),
        )

    def find(self, done: Mapping[str, Result]) -> Finding:
        """The losses, and comparisons of each optimizer with AdamW and Muon."""
        found = {
            c: done[self.cell(c).name].metrics
            for c in self.config.contenders
            if self.cell(c).name in done
        }
        verdicts = against_each(found, OLD, "test_loss")
        place = place_of(found, verdicts, "m3", "test_loss")
        shown = Section(
            "In short",
            COMPARED.format(loss="test loss"),
            [table_of(found, verdicts, FIGURES, OLD)] if found else [],
        )
        sections = [Section("Method", self._about(found))]
        answer = f"M3's test loss {place}." if place else NOTHING
        return Finding({"verdicts": verdicts, "records": found}, sections, answer, shown)

    def _about(self, found: Mapping[str, Any]) -> str:
        config, model = self.config, self.config.model
        size = next((f"{r['num_parameters']:,} parameters, " for r in found.values()), "")
        return (
            f"A vision transformer ({size}{model.num_layers} layers of {model.hidden_size}, "
            f"patches of {model.patch} x {model.patch}) on Fashion-MNIST (MIT licence), "
            f"{config.steps} steps of {config.batch_size} pictures, warm-up and cosine, no weight "
            "decay. Five rates with one seed; the one of lowest loss on "
            f"{config.validation:,} training pictures kept aside goes on with the others. Training "
            "loss: mean of the last tenth of the steps. The paper's figure has ImageNet-21K, 24M "
            "and 86M parameters."
        )


def learn(
    config: Mapping[str, Any],
    train: Pictures,
    kept: Pictures,
    test: Pictures,
    rate: float,
    seed: int,
    say: Callable[[int, float], None],
) -> Figures:
    """Train once from a seed."""
    model = create_vit(VitConfig(**config["model"]), seed)
    optimizers = ENTRANTS[config["optimizer"]].build(model, rate)
    generator = torch.Generator().manual_seed(seed)
    steps, losses = config["steps"], []
    for step in range(steps):
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate * schedule(step, steps=steps, warmup=config["warmup"])
        index = torch.randint(len(train.labels), (config["batch_size"],), generator=generator)
        batch = train.pick(index)
        clear_all(optimizers)
        loss = functional.cross_entropy(model(batch.values), batch.labels)
        losses.append(loss.item())
        if not math.isfinite(losses[-1]):
            names = ("train_loss", "validation_loss", "test_loss", "test_accuracy")
            return dict.fromkeys(names, math.nan)
        loss.backward()
        step_all(optimizers)
        if step % 20 == 0:
            say(step, losses[-1])
    loss, accuracy = judged(model, test)
    return {
        "train_loss": mean(losses[-max(1, steps // 10) :]),
        "validation_loss": judged(model, kept)[0],
        "test_loss": loss,
        "test_accuracy": accuracy,
    }
