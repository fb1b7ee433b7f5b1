"""Writing a change: lessons of several kinds in every step, by Adam, from a seed."""

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
LAST = 0.1  # of the rate, in the last step


class Lesson(NamedTuple):
    """Something to be learned: what follows at some places of a text."""

    entry: Entry
    places: slice  # where the next token is wanted
    wanted: Ids | Tensor  # the tokens, or the features of who is to be followed [N, F]
    group: int = 0  # lessons of all groups come equally often: the sentence it is about


class Kind(NamedTuple):
    """Lessons of one kind."""

    lessons: list[Lesson]
    weight: float  # of their mean loss
    count: int  # lessons of it in every step


class Training:
    """All that is needed to go on writing a change; ``step`` makes one write.

    ``weights`` are those that the change is added to. ``fixed`` right factors are not learned.
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
        """One write; the loss before it."""
        for group in self.adam.param_groups:
            group["lr"] = self.rate * self.share(self.done)
        chosen = [(kind, self._drawn(number, kind)) for number, kind in enumerate(self.kinds)]
        lessons = [(one, kind.weight / len(own)) for kind, own in chosen for one in own]
        sizes = [len(one.entry.ids) for one, _ in lessons]
        with added(self.body.reader.model, self.change, self.weights) as weights:
            made = any(value.grad_fn is not None for value in weights.values())
            count = 1 if made else self.body.side.count  # what was made anew is no part's own
            parts = [[lessons[n] for n in part] for part in even(sizes, count)]
            found = self.body.together(weights, lambda: self.body.side.map(self._gradient, parts))
        for number, value in enumerate(self.values):
            value.grad = torch.stack([grads[number] for _, grads in found]).sum(0)
        nn.utils.clip_grad_norm_(self.values, self.clip)
        self.adam.step()
        self.done += 1
        return sum(loss for loss, _ in found)

    def _gradient(self, lessons: Sequence[tuple[Lesson, float]]) -> tuple[float, Sequence[Tensor]]:
        """The weighted loss of lessons, and its gradient at what is learned."""
        features = self.body.features(
            {}, [one.entry for one, _ in lessons], [one.places for one, _ in lessons]
        )
        loss, grads = losses(
            self.body, features, [one.wanted for one, _ in lessons], [w for _, w in lessons]
        )
        return loss, torch.autograd.grad(features, self.values, grads)

    def share(self, step: int) -> float:
        """The part of the rate a step has: up in a few steps, then down in a line."""
        if step < WARMUP:
            return (step + 1) / WARMUP
        way = (step - WARMUP) / max(1, self.steps - 1 - WARMUP)
        return 1 - (1 - LAST) * min(1.0, way)

    def _drawn(self, number: int, kind: Kind) -> list[Lesson]:
        """The lessons of a step: each comes once before any of its group comes again."""
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
        """Values in an order of their own at each turn of a kind."""
        values = list(values)
        random.Random(f"{self.seed}:{number}:{turn}").shuffle(values)
        return values

    def tensors(self) -> dict[str, Tensor]:
        """All that changes while it is written, by name."""
        found = {}
        for name, factors in self.change.items():
            for side, value in zip(("left", "right"), factors, strict=True):
                state = self.adam.state.get(value, {})
                found[f"{name}:{side}"] = value.detach()
                found |= {f"{name}:{side}:{k}": state[k] for k in MOMENTS if k in state}
        return found

    def restore(self, done: int, tensors: Mapping[str, Tensor]) -> None:
        """Go on after ``done`` steps, with what ``tensors`` gave then."""
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
    """The weights to call a model with, so that gradients reach a change.

    Behind linear maps the change is added to what they put out, which spares the gradient of the
    whole matrix; any other matrix is made anew.
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
        if out.dtype == low.dtype:  # in the place of what the map put out
            out.view(-1, out.shape[-1]).addmm_(low.flatten(0, -2), factors.left.T)
            return out
        return out + functional.linear(low, factors.left).to(out.dtype)

    return add
