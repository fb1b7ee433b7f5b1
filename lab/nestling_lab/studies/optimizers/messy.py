"""Do the new momenta handle messy data better? Pictures of clothes with five kinds of mess."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from nestling.core.error import UserError
from nestling.core.result import Result, provenance
from nestling.data.fashion import CLASSES, Pictures, pictures
from nestling.report import Section
from nestling_lab.studies.optimizers.entrants import ENTRANTS, SIZE, around, clear_all, step_all
from nestling_lab.studies.optimizers.messy_report import OLD, TALLIED, answer, compare, tally_table
from nestling_lab.studies.optimizers.tuned import COMPARED, Figures, table_of, tuned
from nestling_lab.studies.study import Cell, Finding, Study, Tell, silent

MESS = {
    "clean": "nothing is wrong",
    "label-noise": "four labels in ten are drawn at random",
    "heavy-tails": "every gradient gets noise of Student's t with 1.5 degrees of freedom",
    "outliers": "one batch in twenty is ten times too bright and has random labels",
    "drift": "the classes change places four times; the loss is that of the stream as it comes",
}
CONTENDERS = (
    "momentum", "adamw", "muon", "delta-scalar", "delta-row", "delta-matrix", "deep", "delta-gd",
    "m3",
)  # fmt: skip
DIVERGED: Figures = {"validation_loss": math.nan, "test_loss": math.nan, "test_accuracy": math.nan}


class Messy(Study):
    """A two-layer network; every optimizer tuned over a grid of the same size for every mess."""

    name = "optim-messy"
    question = "does momentum as a memory learn better from messy data than momentum, Adam, Muon"

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Sizes of the study."""

        messes: tuple[str, ...] = tuple(MESS)
        contenders: tuple[str, ...] = CONTENDERS
        seeds: tuple[int, ...] = (0, 1, 2, 3, 4)  # of weights, order and mess
        steps: int = 400
        batch_size: int = 64
        hidden: int = 128  # units
        validation: int = 5000  # held-out training pictures, to choose the learning rate
        lower: int = 1  # additional smaller learning rates, for every optimizer

    def __init__(
        self,
        config: Config | None = None,
        load: Callable[[str], Pictures] = pictures,
    ):
        self.config = config or Messy.Config()
        self.load = load

    def cell(self, mess: str, contender: str) -> Cell:
        """The grid and all seeds of one optimizer on one mess."""
        sizes = dataclasses.asdict(self.config)
        del sizes["messes"], sizes["contenders"], sizes["lower"]
        config = {
            **sizes,
            "mess": mess,
            "optimizer": contender,
            "rates": list(around(ENTRANTS[contender].middle, self.config.lower)),
        }
        return Cell(f"{mess}-{contender}", config, self.config.seeds[0])

    def cells(self, done: Mapping[str, Result]) -> list[Cell]:
        """One cell per optimizer and mess."""
        return [self.cell(m, c) for m in self.config.messes for c in self.config.contenders]

    def run(self, cell: Cell, *, tell: Tell = silent, device: str = "cpu") -> Result:
        """Tune one optimizer on one mess, then repeat the best rate with other seeds."""
        train, test = self.load("train"), self.load("test")
        count = cell.config["validation"]
        order = torch.randperm(len(train.labels), generator=torch.Generator().manual_seed(1))
        kept, rest = train.pick(order[:count]), train.pick(order[count:])

        def attempt(rate: float, seed: int) -> Figures:
            try:
                figures = learn(cell.config, rest, kept, test, rate, seed)
            except UserError:  # an optimizer that fails has diverged
                figures = DIVERGED
            tell(seed, len(cell.config["seeds"]), figures["validation_loss"])
            return figures

        metrics = tuned(
            attempt,
            rates=cell.config["rates"],
            seeds=cell.config["seeds"],
            chosen_by="validation_loss",
        )
        return Result(
            name=f"{self.name}/{cell.name}",
            config=cell.config,
            metrics=metrics,
            seed=cell.seed,
            corpus="fashion-mnist",
            provenance=provenance(device),
        )

    def find(self, done: Mapping[str, Result]) -> Finding:
        """The losses of every optimizer on every mess, and comparisons of new with old ones."""
        records = {
            mess: {
                c: done[self.cell(mess, c).name].metrics
                for c in self.config.contenders
                if self.cell(mess, c).name in done
            }
            for mess in self.config.messes
        }
        verdicts = {mess: compare(found) for mess, found in records.items()}
        figures = {"loss": "test_loss", "accuracy": "test_accuracy"}
        each = [
            Section(
                mess,
                MESS[mess].capitalize() + ".",
                [table_of(found, verdicts[mess], figures, OLD)],
            )
            for mess, found in records.items()
        ]
        sections = [Section("Method", self._about()), *each]
        shown = Section(
            "In short", TALLIED, [tally_table(verdicts)] if any(verdicts.values()) else []
        )
        metrics = {"verdicts": verdicts, "records": records}
        return Finding(metrics, sections, answer(verdicts), shown)

    def _about(self) -> str:
        config = self.config
        return (
            f"Fashion-MNIST (MIT licence), a network of one hidden layer of {config.hidden} units, "
            f"{config.steps} steps of {config.batch_size} pictures at a constant rate. For every "
            f"mess each optimizer tries {SIZE + config.lower} learning rates with one seed; the "
            f"one of lowest loss on {config.validation:,} clean training pictures kept aside goes "
            f"on with the other of {len(config.seeds)} seeds. Loss and accuracy are of the clean "
            "test pictures; with drift, of each batch of the stream before it is learned. "
            + COMPARED.format(loss="loss")
        )


def network(hidden: int, seed: int, features: int = 784) -> nn.Module:
    """Create the network with weights from a seed, without using torch's global generator."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Flatten(), nn.Linear(features, hidden), nn.GELU(), nn.Linear(hidden, CLASSES)
        )


def learn(
    config: Mapping[str, Any],
    train: Pictures,
    kept: Pictures,
    test: Pictures,
    rate: float,
    seed: int,
) -> Figures:
    """Train once; return loss and accuracy on unseen pictures (with drift: on the stream)."""
    features = train.values[0].numel()
    module = network(config["hidden"], seed, features)
    optimizers = ENTRANTS[config["optimizer"]].build(module, rate)
    generator = torch.Generator().manual_seed(seed)
    mess, steps, size = config["mess"], config["steps"], config["batch_size"]
    losses, right = [], []
    for step in range(steps):
        batch = train.pick(torch.randint(len(train.labels), (size,), generator=generator))
        batch = spoiled(batch, mess, step, steps, generator)
        clear_all(optimizers)
        logits = module(batch.values)
        loss = functional.cross_entropy(logits, batch.labels)
        losses.append(loss.item())
        right.append((logits.argmax(-1) == batch.labels).float().mean().item())
        if not math.isfinite(losses[-1]):
            return DIVERGED
        loss.backward()
        if mess == "heavy-tails":
            for p in module.parameters():
                add_heavy_tails(p, generator)
        step_all(optimizers)
    if mess == "drift":
        # half of the stream is used to choose the rate, the other half is reported
        return {
            "validation_loss": mean(losses[0::2]),
            "test_loss": mean(losses[1::2]),
            "test_accuracy": mean(right[1::2]),
        }
    return {
        "validation_loss": judged(module, kept)[0],
        "test_loss": judged(module, test)[0],
        "test_accuracy": judged(module, test)[1],
    }


def spoiled(
    batch: Pictures, mess: str, step: int, steps: int, generator: torch.Generator
) -> Pictures:
    """Apply the mess to a batch."""
    values, labels = batch
    random = torch.randint(CLASSES, labels.shape, generator=generator)
    draws = torch.rand(len(labels) + 1, generator=generator)
    if mess == "label-noise":
        return Pictures(values, torch.where(draws[1:] < 0.4, random, labels))
    if mess == "outliers" and draws[0] < 0.05:
        return Pictures(10 * values, random)
    if mess == "drift":
        return Pictures(values, (labels + 3 * (5 * step // steps)) % CLASSES)
    return batch


def add_heavy_tails(parameter: Tensor, generator: torch.Generator) -> None:
    """Add Student's t noise with 1.5 degrees of freedom, scaled by the size of the gradient."""
    gradient = parameter.grad
    if gradient is None:
        return
    normal = torch.randn(gradient.shape, generator=generator)
    # chi-square with 1.5 degrees of freedom is a gamma variable; one draw for the whole tensor, so
    # that now and then a whole step is far off
    gamma = torch._standard_gamma(torch.tensor(0.75), generator=generator)
    scale = gradient.square().mean().sqrt()
    gradient.add_(scale * normal * torch.rsqrt(2 * gamma.clamp(min=1e-12) / 1.5))


@torch.no_grad()
def judged(module: nn.Module, data: Pictures) -> tuple[float, float]:
    """The mean loss and the accuracy."""
    logits = module(data.values)
    loss = functional.cross_entropy(logits, data.labels).item()
    return loss, (logits.argmax(-1) == data.labels).float().mean().item()


def mean(values: list[float]) -> float:
    """The mean of a non-empty list."""
    return sum(values) / len(values)
