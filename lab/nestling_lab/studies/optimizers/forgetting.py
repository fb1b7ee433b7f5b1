"""Forgetting caused by the optimizer's state: tasks in sequence, each with its own direction.

The inputs of each task are along one direction, which overlaps with those of the others by a cosine
rho. Gradients of a task that are still in the optimizer's state at its end are applied in the next
one. The same optimizer with a fresh state at every switch shows how much forgetting that causes.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nestling.core.result import Result, provenance
from nestling.report import Section
from nestling_lab.studies.optimizers.entrants import ENTRANTS, clear_all, step_all
from nestling_lab.studies.optimizers.forgetting_report import (
    SHOWN,
    answer,
    carried_table,
    effect_of,
    effect_table,
)
from nestling_lab.studies.optimizers.tuned import Figures, tuned
from nestling_lab.studies.study import Cell, Finding, Study, Tell, silent

CONTENDERS = (
    "gd", "momentum", "adamw", "muon", "delta-scalar", "delta-row", "delta-matrix", "m3", "deep",
    "delta-gd",
)  # fmt: skip


class Forgetting(Study):
    """Linear regression on tasks in sequence, with carried and with fresh optimizer state."""

    name = "optim-forgetting"
    question = "how much of forgetting comes from what the optimizer itself remembers"

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Sizes of the study."""

        contenders: tuple[str, ...] = CONTENDERS
        overlaps: tuple[float, ...] = (0.0, 0.5)  # cosine between the directions of two tasks
        seeds: tuple[int, ...] = (0, 1, 2, 3, 4)  # of directions, targets and noise
        tasks: int = 4
        inputs: int = 16
        outputs: int = 8
        steps: int = 100  # per task
        batch_size: int = 16
        noise: float = 0.1  # of inputs off the task's direction, and of targets

    def __init__(self, config: Config | None = None):
        self.config = config or Forgetting.Config()

    def cell(self, overlap: float, contender: str) -> Cell:
        """One optimizer at one overlap."""
        config = dataclasses.asdict(self.config)
        del config["contenders"], config["overlaps"]
        config |= {
            "overlap": overlap,
            "optimizer": contender,
            "rates": list(ENTRANTS[contender].rates),
        }
        return Cell(f"overlap{overlap:g}-{contender}", config, self.config.seeds[0])

    def cells(self, done: Mapping[str, Result]) -> list[Cell]:
        """Every optimizer at every overlap."""
        return [self.cell(o, c) for o in self.config.overlaps for c in self.config.contenders]

    def run(self, cell: Cell, *, tell: Tell = silent, device: str = "cpu") -> Result:
        """Tune with carried state; then use the same rate with fresh state at every switch."""
        seeds = cell.config["seeds"]

        def attempt(rate: float, seed: int) -> Figures:
            figures = learn(cell.config, rate, seed, fresh=False)
            tell(seed, len(seeds), figures["final_loss"])
            return figures

        carried = tuned(attempt, rates=cell.config["rates"], seeds=seeds, chosen_by="final_loss")
        fresh = tuned(
            lambda rate, seed: learn(cell.config, rate, seed, fresh=True),
            rates=[carried["rate"]],
            seeds=seeds,
            chosen_by="final_loss",
        )
        return Result(
            name=f"{self.name}/{cell.name}",
            config=cell.config,
            metrics={"carried": carried, "fresh": fresh},
            seed=cell.seed,
            provenance=provenance(device),
        )

    def find(self, done: Mapping[str, Result]) -> Finding:
        """The final loss, forgetting, and the part of it that fresh states avoid."""
        found = {
            overlap: {
                c: effect_of(done[name].metrics)
                for c in self.config.contenders
                if (name := self.cell(overlap, c).name) in done
            }
            for overlap in self.config.overlaps
        }
        sections = [
            Section("Method", self._about()),
            *(Section(f"Cosine {o:g}", tables=[carried_table(own)]) for o, own in found.items()),
        ]
        shown = Section("In short", SHOWN, [effect_table(found)] if done else [])
        metrics = {self.cell(o, c).name: one for o, own in found.items() for c, one in own.items()}
        return Finding(metrics, sections, answer(found), shown)

    def _about(self) -> str:
        c = self.config
        return (
            f"{c.tasks} tasks of {c.steps} steps of {c.batch_size} examples, one after the other: "
            f"x = s u_i + noise in {c.inputs} dimensions, targets from a linear map of the task's "
            f"own, {c.outputs} outputs, one matrix learned; losses are squared errors without "
            "noise. Every output direction of a task is its own: at cosine 0 gradients of two "
            "tasks meet in the noise only. Each optimizer tries five rates with the first seed "
            "and takes the one of lowest loss at the end (* at the edge of the grid); intervals "
            "are 95 % over the seeds.\n\n"
            "Forgetting: the rise of the loss of all but the last task from its end to the end of "
            "all. Pull: cosine of the first step after a switch with the task left behind. "
            "Recovery: steps on the first task, at the end, until its loss is below one and a half "
            f"times what it was at its own end (at most {c.steps})."
        )


class Tasks:
    """Directions and targets of all tasks, drawn from the seed."""

    def __init__(self, config: Mapping[str, Any], seed: int):
        self.config = config
        self.generator = torch.Generator().manual_seed(1000 + seed)
        count, width = config["tasks"], config["inputs"]
        basis = torch.linalg.qr(torch.randn(width, count + 1, generator=self.generator)).Q.T
        shared, rho = basis[0], config["overlap"]
        self.directions = math.sqrt(rho) * shared + math.sqrt(1 - rho) * basis[1:]
        self.targets = torch.randn(
            count, config["outputs"], generator=self.generator
        )  # of a unit step along the direction

    def batch(self, task: int) -> tuple[Tensor, Tensor]:
        """Inputs along the task's direction, noisy targets."""
        c = self.config
        s = torch.randn(c["batch_size"], 1, generator=self.generator)
        x = s * self.directions[task]
        x = x + c["noise"] * torch.randn(x.shape, generator=self.generator)
        y = s * self.targets[task]
        return x, y + c["noise"] * torch.randn(y.shape, generator=self.generator)

    @torch.no_grad()
    def loss(self, module: nn.Linear, task: int) -> float:
        """The squared error along the task's direction, for unit variance there."""
        return (module(self.directions[task]) - self.targets[task]).square().mean().item()


def learn(config: Mapping[str, Any], rate: float, seed: int, *, fresh: bool) -> Figures:
    """Learn all tasks in sequence; ``fresh`` creates a new optimizer at every switch."""
    tasks = Tasks(config, seed)
    module = nn.Linear(config["inputs"], config["outputs"], bias=False)
    nn.init.zeros_(module.weight)
    build = ENTRANTS[config["optimizer"]].build
    optimizers = build(module, rate)
    ends, pulls = [], []
    for task in range(config["tasks"]):
        if fresh and task:
            optimizers = build(module, rate)
        for step in range(config["steps"]):
            before = module.weight.detach().clone()
            train(module, optimizers, *tasks.batch(task))
            if task and not step:
                pulls.append(pull(module.weight.detach() - before, tasks.directions[task - 1]))
        ends.append(tasks.loss(module, task))
    finals = [tasks.loss(module, task) for task in range(config["tasks"])]
    lost = [final - end for final, end in zip(finals[:-1], ends[:-1], strict=True)]
    figures = {
        "final_loss": sum(finals) / len(finals),
        "forgetting": sum(lost) / len(lost),
        "pull": sum(pulls) / len(pulls),
        "recovery": float(config["steps"]),
    }
    for step in range(config["steps"]):
        if tasks.loss(module, 0) <= 1.5 * ends[0]:
            return figures | {"recovery": float(step)}
        train(module, optimizers, *tasks.batch(0))
    return figures


def train(module: nn.Linear, optimizers: list, x: Tensor, y: Tensor) -> None:
    """Do one training step."""
    clear_all(optimizers)
    (module(x) - y).square().mean().backward()
    step_all(optimizers)


def pull(step: Tensor, direction: Tensor) -> float:
    """The cosine of a step of the weight with an input direction."""
    return ((step @ direction).norm() / step.norm().clamp(min=1e-12)).item()
