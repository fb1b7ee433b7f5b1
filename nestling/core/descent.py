"""Rules that turn a gradient into a change of weights: the error component f of a level.

Each is a pure function of explicit buffers, row by row of a batch, and differentiable.

Legend (per row and tensor): g gradient, W weight, m momentum, v mean square of gradients, n number
of this write from 1, X inputs of a linear map (a column a token), eta learning rate ``lr``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nestling.core.error import UserError
from nestling.core.rule import newton_schulz


@dataclass(frozen=True, kw_only=True)
class RuleOptions:
    """Constants of the rules; each says which rules read it."""

    momentum: float = 0.9  # retention of the first memory of gradients: all but gradient and dgd
    square_momentum: float = 0.999  # retention of the mean square: adam, m3
    erase: float = 1.0  # strength of the eraser: delta_momentum, dgd (1 = as derived)
    erase_whole: bool = False  # dgd erases the whole weight, as printed, or what has moved alone
    slow_momentum: float = 0.95  # retention of the slow memory of gradients: m3
    slow_weight: float = 0.5  # share of the slow memory in a step: m3
    slow_period: int = 16  # writes between two of the slow memory: m3
    epsilon: float = 1e-8  # added to a root mean square: adam, m3

    def __post_init__(self):
        for name in ("momentum", "square_momentum", "slow_momentum"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"{name} is a retention: give at least 0 and less than 1")
        for name in ("erase", "slow_weight", "epsilon"):
            if not getattr(self, name) >= 0:
                raise UserError(f"{name} must be at least 0")
        if self.slow_period < 1:
            raise UserError("slow_period must be at least 1 write")


class Evidence(NamedTuple):
    """What one write is made of, for one tensor of every row."""

    gradient: Float[Tensor, "B *S"]
    weight: Float[Tensor, "B *S"]  # what an eraser erases
    gram: Float[Tensor, "B K K"] | None = None  # mean of x x^T over the inputs of a linear map


Buffers = tuple[Tensor, ...]
Step = Callable[
    [RuleOptions, Tensor | float, Evidence, Buffers, Int[Tensor, " B"]], tuple[Tensor, Buffers]
]


class Rule(NamedTuple):
    """A rule, and its memories of gradients: zeros of the shape of the weight at the start."""

    step: Step  # (options, eta, evidence, buffers, number) -> (change of the weight, buffers)
    buffers: tuple[str, ...] = ()
    summary: str = ""


def wide(row: Tensor, like: Tensor) -> Tensor:
    """A value for each row, in the shape that multiplies a tensor with rows first."""
    return row.view(-1, *(1,) * (like.ndim - 1))


def length(x: Float[Tensor, "B *S"]) -> Float[Tensor, " B"]:
    """The Euclidean norm of each row; the derivative at zero is zero."""
    return x.flatten(1).square().sum(1).clamp_min(1e-30).sqrt()


def gradient(
    options: RuleOptions,
    eta: Tensor | float,
    evidence: Evidence,
    buffers: Buffers,
    number: Int[Tensor, " B"],
) -> tuple[Tensor, Buffers]:
    """W <- W - eta g. Source: arXiv 2512.24695, Eq 7-9. Deviates: nothing."""
    return -eta * evidence.gradient, buffers


def momentum(
    options: RuleOptions,
    eta: Tensor | float,
    evidence: Evidence,
    buffers: Buffers,
    number: Int[Tensor, " B"],
) -> tuple[Tensor, Buffers]:
    """m <- mu m + g; W <- W - eta m. Source: arXiv 2512.24695, Eq 33.

    Deviates: eta stands outside of m, the same for a constant rate.
    """
    m = options.momentum * buffers[0] + evidence.gradient
    return -eta * m, (m,)


def adam(
    options: RuleOptions,
    eta: Tensor | float,
    evidence: Evidence,
    buffers: Buffers,
    number: Int[Tensor, " B"],
) -> tuple[Tensor, Buffers]:
    """Adam with bias correction. Source: arXiv 1412.6980, algorithm 1. Deviates: nothing."""
    mean, square, m, v = _moments(options, evidence.gradient, buffers, number)
    return -eta * mean / (_root(square) + options.epsilon), (m, v)


def delta_momentum(
    options: RuleOptions,
    eta: Tensor | float,
    evidence: Evidence,
    buffers: Buffers,
    number: Int[Tensor, " B"],
) -> tuple[Tensor, Buffers]:
    """m <- m (mu I - e u^T u) + g with u = g / |g|; W <- W - eta m: momentum that erases.

    Source: arXiv 2512.24695, Eq 49 with P = I. Deviates: u has unit length, since the scale of a
    gradient is arbitrary; a tensor that is no matrix decays by the scalar mu - e. The least
    retention is 0: no sign flips.
    """
    g, m = evidence.gradient, buffers[0]
    erase = min(options.erase, options.momentum)
    if g.ndim < 3:
        return _moved(eta, (options.momentum - erase) * m + g)
    u = g / wide(length(g), g)
    return _moved(eta, options.momentum * m - erase * (m @ u.mT) @ u + g)


def _moved(eta: Tensor | float, m: Tensor) -> tuple[Tensor, Buffers]:
    return -eta * m, (m,)


def muon(
    options: RuleOptions,
    eta: Tensor | float,
    evidence: Evidence,
    buffers: Buffers,
    number: Int[Tensor, " B"],
) -> tuple[Tensor, Buffers]:
    """m <- mu m + g; W <- W - eta NewtonSchulz(m); momentum for what is no matrix.

    Source: arXiv 2512.24695, Eq 42. Deviates: nothing.
    """
    m = options.momentum * buffers[0] + evidence.gradient
    return -eta * (newton_schulz(m) if m.ndim >= 3 else m), (m,)


def m3(
    options: RuleOptions,
    eta: Tensor | float,
    evidence: Evidence,
    buffers: Buffers,
    number: Int[Tensor, " B"],
) -> tuple[Tensor, Buffers]:
    """Multi-scale momentum: a fast and a slow memory of gradients, each made orthogonal.

    W <- W - eta s / rms(s), s = (NS(m) + a O) / (sqrt(v) + epsilon). Once in ``slow_period`` writes
    the slow memory takes up the mean gradient since, and O is its Newton-Schulz image from the next
    write on. What is no matrix goes by Adam.

    Source: arXiv 2512.24695, Algorithm 1. Deviates: means that forget in place of plain sums, and
    steps of unit root mean square in place of ones that shrink with the gradient's scale.
    """
    *moments, slow, gathered, direction = buffers
    mean, square, m, v = _moments(options, evidence.gradient, (moments[0], moments[1]), number)
    scale = _root(square) + options.epsilon
    gathered = gathered + evidence.gradient
    turn = wide(number % options.slow_period == 0, m)
    keep = options.slow_momentum
    after = keep * slow + (1 - keep) * gathered / options.slow_period
    if m.ndim < 3:
        step = mean / scale
        fresh = after
    else:
        step = (newton_schulz(mean) + options.slow_weight * direction) / scale
        step = step / wide(length(step) / step[0].numel() ** 0.5, step)
        fresh = newton_schulz(after)
    return -eta * step, (
        m,
        v,
        torch.where(turn, after, slow),
        torch.where(turn, torch.zeros_like(gathered), gathered),
        torch.where(turn, fresh, direction),
    )


def dgd(
    options: RuleOptions,
    eta: Tensor | float,
    evidence: Evidence,
    buffers: Buffers,
    number: Int[Tensor, " B"],
) -> tuple[Tensor, Buffers]:
    """Delta gradient descent: W <- (W - eta g)(I + eta e X X^T / n)^-1, the exact proximal step.

    What lies along the inputs that were read is erased as the gradient is written. Tensors without
    ``gram`` (biases, norms) go by the plain gradient.

    Source: arXiv 2512.24695, Eq 56-57, for the mean over n tokens. Deviates: for an input of any
    length, where the paper's has length one; W is what has moved from the start unless
    ``erase_whole``, as the eraser would otherwise unlearn the start itself.
    """
    g, w, gram = evidence
    if gram is None or gram.shape[-1] == 0:
        return -eta * g, buffers
    strength = eta * options.erase
    eye = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    target = w - eta * g
    return torch.linalg.solve(eye + strength * gram, target, left=False) - w, buffers


def _moments(
    options: RuleOptions, g: Tensor, buffers: Buffers, number: Int[Tensor, " B"]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Mean and mean square of the gradients without the bias of their start, and with it."""
    first, second = options.momentum, options.square_momentum
    m = first * buffers[0] + (1 - first) * g
    v = second * buffers[1] + (1 - second) * g.square()
    n = wide(number, g).clamp_min(1).to(g.dtype)
    return m / (1 - first**n), v / (1 - second**n), m, v


def _root(square: Tensor) -> Tensor:
    """The square root; the derivative at zero is zero."""
    return square.clamp_min(1e-30).sqrt()


RULES = {
    "gradient": Rule(gradient, (), "W <- W - eta g"),
    "momentum": Rule(momentum, ("m",), "m <- mu m + g; W <- W - eta m"),
    "adam": Rule(adam, ("m", "v"), "Adam"),
    "delta_momentum": Rule(delta_momentum, ("m",), "m <- m (mu I - u^T u) + g; W <- W - eta m"),
    "muon": Rule(muon, ("m",), "m <- mu m + g; W <- W - eta NewtonSchulz(m)"),
    "m3": Rule(m3, ("m", "v", "slow m", "gathered", "direction"), "fast and slow Muon over sqrt v"),
    "dgd": Rule(dgd, (), "W <- (W - eta g)(I + eta X X^T / n)^-1"),
}
