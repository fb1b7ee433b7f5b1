"""Writing a change: lessons of several kinds in every step, by Adam, from a seed."""

import contextlib
import random
from collections.abc import Generator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from nestling.continual.study.body import Body, Entry, Ids
from nestling.continual.study.change import Change, Factors

BETAS = (0.9, 0.98)
WARMUP = 3  # steps
LAST = 0.1  # of the rate, in the last step


class Lesson(NamedTuple):
    """Something to be learned: what follows at some places of a text."""

    entry: Entry
    places: slice  # where the next token is wanted
    wanted: Ids | Tensor  # the tokens, or the features of who is to be followed [N, F]


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
        lessons = [lesson for _, own in chosen for lesson in own]
        with added(self.body.reader.model, self.change, self.weights) as weights:
            features = self.body.features(
                weights, [lesson.entry for lesson in lessons], [one.places for one in lessons]
            )
        losses = self._losses(features, lessons)
        loss, first = torch.zeros((), device=losses.device), 0
        for kind, own in chosen:
            loss = loss + kind.weight * losses[first : first + len(own)].mean()
            first += len(own)
        self.adam.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.values, self.clip)
        self.adam.step()
        self.done += 1
        return float(loss.detach())

    def share(self, step: int) -> float:
        """The part of the rate a step has: up in a few steps, then down in a line."""
        if step < WARMUP:
            return (step + 1) / WARMUP
        way = (step - WARMUP) / max(1, self.steps - 1 - WARMUP)
        return 1 - (1 - LAST) * min(1.0, way)

    def _drawn(self, number: int, kind: Kind) -> list[Lesson]:
        """The lessons of a step: each comes once before any comes again."""
        size, count = len(kind.lessons), min(kind.count, len(kind.lessons))
        found = []
        for place in range(self.done * count, (self.done + 1) * count):
            order = list(range(size))
            random.Random(f"{self.seed}:{number}:{place // size}").shuffle(order)
            found.append(kind.lessons[order[place % size]])
        return found

    def _losses(self, features: Sequence[Tensor], lessons: Sequence[Lesson]) -> Float[Tensor, " N"]:
        logits = self.body.logits(torch.cat(list(features)))
        followed = [one.wanted for one in lessons if isinstance(one.wanted, Tensor)]
        said = iter(self._said(followed))
        found = []
        for own, lesson in zip(logits.split([len(f) for f in features]), lessons, strict=True):
            if isinstance(lesson.wanted, Tensor):
                now = own.log_softmax(-1)
                found.append(
                    functional.kl_div(now, next(said), reduction="batchmean", log_target=True)
                )
            else:
                tokens = torch.tensor(lesson.wanted, device=own.device)
                found.append(functional.cross_entropy(own, tokens))
        return torch.stack(found)

    @torch.no_grad()
    def _said(self, features: Sequence[Tensor]) -> Sequence[Float[Tensor, "N V"]]:
        """How likely whoever is followed says each token; the head is read once for all."""
        if not features:
            return []
        own = self.body.reader.model.device
        found = self.body.logits(torch.cat(list(features)).to(own)).log_softmax(-1)
        return found.split([len(f) for f in features])

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
        low = functional.linear(args[0].float(), factors.right)
        return out + functional.linear(low, factors.left).to(out.dtype)

    return add
