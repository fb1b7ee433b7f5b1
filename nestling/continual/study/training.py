"""Trains a change with Adam, on lessons of several kinds in every step, from a seed."""

import contextlib
import random
from collections.abc import Generator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from nestling.continual.study.body import Body, Entry, Ids
from nestling.continual.study.change import Change, Factors
from nestling.continual.study.losses import losses
from nestling.continual.study.side import even

T = TypeVar("T")
BETAS = (0.9, 0.98)
WARMUP = 3  # steps
LAST = 0.1  # fraction of the rate in the last step


class Lesson(NamedTuple):
    """A lesson: a text with targets for the next token at some places."""

    entry: Entry
    places: slice  # where the next token has a target
    wanted: Ids | Tensor  # target tokens, or features of the reference model [N, F]
    group: int = 0  # the sentence it is about; all groups occur equally often


class Kind(NamedTuple):
    """The lessons of one kind."""

    lessons: list[Lesson]
    weight: float  # of their mean loss
    count: int  # lessons per step


class Training:
    """The training of a change; ``step`` makes one write.

    The change is added to ``weights``. Right factors that are ``fixed`` are not trained.
    """

    def __init__(
        self,
        body: Body,
        weights: Mapping[str, Tensor],
        change: Change,
        kinds: Sequence[Kind],
        *,
        rate: float,
        steps: int,
        clip: float = 1.0,
        seed: int = 0,
        fixed: bool = False,
    ):
        self.body, self.weights = body, weights
        self.kinds = [kind for kind in kinds if kind.lessons and kind.count > 0]
        self.rate, self.steps, self.clip, self.seed = rate, steps, clip, seed
        self.change = {
            name: Factors(*(x.detach().clone() for x in factors))
            for name, factors in change.items()
        }
        learned = [f[:1] if fixed else f for f in self.change.values()]
        self.values = [x.requires_grad_() for factors in learned for x in factors]
        self.adam = torch.optim.Adam(self.values, lr=rate, betas=BETAS)
        self.done = 0

    def step(self) -> float:
        """Make one write; return the loss before it."""
        for group in self.adam.param_groups:
            group["lr"] = self.rate * self.share(self.done)
        chosen = [(kind, self._drawn(number, kind)) for number, kind in enumerate(self.kinds)]
        lessons = [(one, kind.weight / len(own)) for kind, own in chosen for one in own]
        sizes = [len(one.entry.ids) for one, _ in lessons]
        with added(self.body.reader.model, self.change, self.weights) as weights:
            made = any(value.grad_fn is not None for value in weights.values())
            count = 1 if made else self.body.side.count  # rebuilt matrices are shared by all parts
            parts = [[lessons[n] for n in part] for part in even(sizes, count)]
            found = self.body.together(weights, lambda: self.body.side.map(self._gradient, parts))
        for number, value in enumerate(self.values):
            value.grad = torch.stack([grads[number] for _, grads in found]).sum(0)
        nn.utils.clip_grad_norm_(self.values, self.clip)
        self.adam.step()
        self.done += 1
        return sum(loss for loss, _ in found)

    def _gradient(self, lessons: Sequence[tuple[Lesson, float]]) -> tuple[float, Sequence[Tensor]]:
        """The weighted loss of lessons, and its gradients for the trained factors."""
        features = self.body.features(
            {}, [one.entry for one, _ in lessons], [one.places for one, _ in lessons]
        )
        loss, grads = losses(
            self.body, features, [one.wanted for one, _ in lessons], [w for _, w in lessons]
        )
        return loss, torch.autograd.grad(features, self.values, grads)

    def share(self, step: int) -> float:
        """The fraction of the rate at a step: a short warm-up, then a linear decay."""
        if step < WARMUP:
            return (step + 1) / WARMUP
        way = (step - WARMUP) / max(1, self.steps - 1 - WARMUP)
        return 1 - (1 - LAST) * min(1.0, way)

    def _drawn(self, number: int, kind: Kind) -> list[Lesson]:
        """The lessons of a step; all of a group are used once before any is repeated."""
        groups: dict[int, list[Lesson]] = {}
        for one in kind.lessons:
            groups.setdefault(one.group, []).append(one)
        names, count = sorted(groups), min(kind.count, len(kind.lessons))
        found = []
        for place in range(self.done * count, (self.done + 1) * count):
            turn, rest = divmod(place, len(names))
            group = self._shuffled(names, number, turn)[rest]
            again, nth = divmod(turn, len(groups[group]))
            found.append(self._shuffled(groups[group], number, f"{group}:{again}")[nth])
        return found

    def _shuffled(self, values: Sequence[T], number: int, turn: int | str) -> list[T]:
        """The values in a new order for each round."""
        values = list(values)
        random.Random(f"{self.seed}:{number}:{turn}").shuffle(values)
        return values

    def tensors(self) -> dict[str, Tensor]:
        """All tensors that change during training, by name."""
        found = {}
        for name, factors in self.change.items():
            for side, value in zip(("left", "right"), factors, strict=True):
                state = self.adam.state.get(value, {})
                found[f"{name}:{side}"] = value.detach()
                found |= {f"{name}:{side}:{k}": state[k] for k in MOMENTS if k in state}
        return found

    def restore(self, done: int, tensors: Mapping[str, Tensor]) -> None:
        """Continue after ``done`` steps, with the ``tensors`` of that time."""
        self.done = done
        with torch.no_grad():
            for name, factors in self.change.items():
                for side, value in zip(("left", "right"), factors, strict=True):
                    value.copy_(tensors[f"{name}:{side}"])
                    if done and value.requires_grad:
                        moments = {k: tensors[f"{name}:{side}:{k}"].to(value) for k in MOMENTS}
                        step = torch.tensor(float(done))
                        self.adam.state[value] = {"step": step, **moments}


MOMENTS = ("exp_avg", "exp_avg_sq")


@contextlib.contextmanager
def added(
    model: nn.Module, change: Change, weights: Mapping[str, Tensor]
) -> Generator[dict[str, Tensor]]:
    """The weights to call a model with, so that a change gets gradients.

    For linear maps the change is applied to their output, which avoids a gradient for the whole
    matrix; other matrices are rebuilt.
    """
    whole, hooks = dict(weights), []
    own = dict(model.named_parameters())
    for name, factors in change.items():
        module = model.get_submodule(name.rpartition(".")[0])
        if isinstance(module, nn.Linear) and name.endswith(".weight"):
            hooks.append(module.register_forward_hook(_adder(factors)))
        else:
            whole[name] = whole.get(name, own[name]) + factors.product().to(own[name].dtype)
    try:
        yield whole
    finally:
        for hook in hooks:
            hook.remove()


def _adder(factors: Factors) -> Any:
    def add(module: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> Tensor:
        low = functional.linear(args[0].to(factors.right), factors.right)
        if out.dtype == low.dtype:  # in place, in the output of the map
            left = factors.left.T.to(out.dtype)
            out.view(-1, out.shape[-1]).addmm_(low.flatten(0, -2), left)
            return out
        return out + functional.linear(low, factors.left).to(out.dtype)

    return add
