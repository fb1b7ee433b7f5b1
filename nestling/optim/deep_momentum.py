"""Deep momentum: a small network, shared by a group, that maps each gradient to its step."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from nestling.core.network import mlp, mlp_gradient
from nestling.optim.base import GradientMemory, at_least, check_choice, fraction, wide_dtype
from nestling.rules import GradientRecord
from nestling.rules.associative import damped
from nestling.rules.newton_schulz import spread, whole
from nestling.rules.objective import OBJECTIVES

INNER = ("l2", "huber", "dot")
RMS_BETA = 0.99  # decay of the running mean square of each tensor's gradient
Weights = tuple[Tensor, Tensor]


class DeepMomentum(GradientMemory):
    """Deep momentum gradient descent (DMGD): the momentum is a network trained on the gradients.

        m(u) = -skip u + W_2 gelu(W_1 u)              u: ``width`` consecutive gradient elements
        theta <- theta_0 + alpha (theta - theta_0) - eta' grad of the mean of L(m(u); target)
        W <- W + lr m(u)

    Every gradient is divided by its running root mean square (one scalar per tensor), split into
    rows of ``width`` and passed through one network per group. Before it is read, the network
    takes a gradient step on at most ``learn_rows`` evenly spaced rows. theta_0 has W_2 = 0, so the
    first step of a single row u is -(skip + (1 - skip) p / (1 + p)) u, p = eta |gelu(W_1 u)|^2
    ("l2"). ``inner`` is L. "l2", and "huber" with a bounded gradient, have the target -u: rows
    along frequent directions pass in full, others scaled by ``skip``. "dot" is <m(u), 1> as
    printed: nothing makes it a descent direction, and only alpha bounds its growth. With skip=1
    "l2" is minimal from the start and W_2 stays zero: momentum without memory.

    Multiplying the loss by c leaves the steps unchanged.

    Source: arXiv 2512.24695, Eq 50. Deviates: the printed L, <m(u), 1>, is only an option, because
    its m(u) need not be a descent direction; alpha decays towards theta_0 and not to zero, where
    W_1 would get no gradient; the step is multiplied by lr; u is normalised.
    Cost: time O(width hidden) for each row read, three times that for each row learned from;
    2 hidden width numbers per group, kept with its first parameter, and one per tensor.

    >>> weight = torch.nn.Parameter(torch.ones(4))
    >>> optimizer = DeepMomentum([weight], lr=0.1, width=4)
    >>> weight.sum().backward()
    >>> optimizer.step()  # half a step of gradient descent, plus what the network adds
    >>> bool((weight < 0.95).all())
    True
    """

    name = "deep_momentum"
    default_lr: ClassVar[float] = 1e-3
    whole_groups = True
    cycled = "alpha"

    def __init__(
        self,
        params: Any,
        lr: float | int = 1e-3,
        *,
        alpha: float | int = 0.99,
        eta: float | int = 1.0,
        inner: str = "l2",
        skip: float | int = 0.5,
        width: int = 32,
        hidden: int = 64,
        learn_rows: int = 4096,
        seed: int = 0,
        weight_decay: float | int = 0.0,
        maximize: bool = False,
        nonfinite: str = "raise",
    ):
        fraction(alpha=alpha, skip=skip)
        at_least(0, eta=eta)
        at_least(1, width=width, hidden=hidden, learn_rows=learn_rows)
        check_choice("inner", inner, INNER)
        options = {
            "alpha": alpha,
            "eta": eta,
            "inner": inner,
            "skip": skip,
            "width": width,
            "hidden": hidden,
            "learn_rows": learn_rows,
            "seed": seed,
        }
        super().__init__(
            params,
            lr=lr,
            weight_decay=weight_decay,
            maximize=maximize,
            nonfinite=nonfinite,
            options=options,
        )

    def records(self, group: dict[str, Any]) -> tuple[GradientRecord, ...]:
        """One record: the network."""
        rule = "gradient descent with decay of a network: theta <- alpha theta - eta grad"
        return (GradientRecord("m(u)", "|m(u) + u|^2 / 2", rule, "their step is its output"),)

    def _start(self, parameter: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        return {"square": torch.zeros((), dtype=wide_dtype(parameter), device=parameter.device)}

    def _shared(self, group: dict[str, Any], state: Any) -> dict[str, Sequence[int]]:
        inner, outer = group["hidden"], group["width"]
        sizes = {"start": (inner, outer), "first": (inner, outer), "second": (outer, inner)}
        return sizes if "second" in state else {}

    def _network(self, group: dict[str, Any]) -> dict[str, Any]:
        """The state of the group's first parameter, which holds the network."""
        first = group["params"][0]
        state = self.state[first]
        if "second" not in state:
            state |= {} if state else {"step": torch.zeros(()), **self._start(first, group)}
            dtype = wide_dtype(first)
            generator = torch.Generator().manual_seed(group["seed"])
            start = torch.randn(group["hidden"], group["width"], generator=generator, dtype=dtype)
            start = (start / group["width"] ** 0.5).to(first.device)
            second = start.new_zeros(group["width"], group["hidden"])
            state |= {"start": start, "first": start.clone(), "second": second}
        return state

    def _write(
        self,
        group: dict[str, Any],
        parameters: list[Tensor],
        gradients: list[Tensor],
        states: list[dict[str, Any]],
        step: int,
    ) -> None:
        memory = self._network(group)
        rows = []
        for gradient, state in zip(gradients, states, strict=True):
            gradient, square = whole(gradient), state["square"]
            square.lerp_(gradient.square().mean(), 1 - RMS_BETA)
            size = (square / (1 - RMS_BETA ** float(state["step"]))).sqrt().clamp_min(1e-30)
            rows.append(in_rows((gradient / size).to(memory["first"].dtype), group["width"]))
        learn(memory, spaced(rows, group["learn_rows"]), group)
        weights = (memory["first"], memory["second"])
        for parameter, u in zip(parameters, rows, strict=True):
            move = read(weights, u, group["skip"]).flatten()[: parameter.numel()]
            parameter.add_(spread(move.view(parameter.shape), parameter), alpha=float(group["lr"]))


def in_rows(x: Tensor, width: int) -> Float[Tensor, "n width"]:
    """A tensor split into rows of ``width``, the last one padded with zeros."""
    return functional.pad(x.flatten(), (0, -x.numel() % width)).view(-1, width)


def spaced(rows: list[Tensor], count: int) -> Float[Tensor, "n width"]:
    """At most ``count`` rows, evenly spaced."""
    total = sum(len(some) for some in rows)
    stride = -(-total // count)
    first, found = 0, []
    for some in rows:
        found.append(some[-first % stride :: stride])
        first += len(some)
    return torch.cat(found)


def read(weights: Weights, u: Float[Tensor, "n d"], skip: float | int) -> Float[Tensor, "n d"]:
    """m(u) = -skip u + W_2 gelu(W_1 u)."""
    return mlp(weights, u).sub_(u, alpha=skip)


def learn(memory: dict[str, Any], u: Float[Tensor, "n d"], group: dict[str, Any]) -> None:
    """theta <- theta_0 + alpha (theta - theta_0) - eta' grad of the mean of L(m(u); target)."""
    alpha, weights = group["alpha"], (memory["first"], memory["second"])
    target = -torch.ones_like(u) if group["inner"] == "dot" else -u
    g = OBJECTIVES[group["inner"]].gradient(read(weights, u, group["skip"]), target) / len(u)
    first, second = mlp_gradient(weights, u, g)
    hidden = functional.gelu(functional.linear(u, memory["first"]))
    etas = [
        damped(group["eta"], power)
        for power in (
            u.square().mean(0).sum() * memory["second"].square().sum(),
            hidden.square().mean(0).sum(),
        )
    ]
    memory["first"].lerp_(memory["start"], 1 - alpha).sub_(first * etas[0])
    memory["second"].mul_(alpha).sub_(second * etas[1])
