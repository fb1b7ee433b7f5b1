"""The boxes an optimizer adds to a nested system: its memories of gradients."""

from typing import NamedTuple

from torch.optim import Optimizer

from nestling.core.error import UserError, did_you_mean
from nestling.core.level import Level
from nestling.core.transfer import Transfer


class Buffer(NamedTuple):
    """One memory of gradients: what it is called and how it is written."""

    name: str
    objective: str
    rule: str
    what: str  # what the weights' step takes from it
    steps: int = 1  # of the weights it is written in, between two writes of its own


DIRECTION = "the direction of their step"
READ = f"{DIRECTION}, made orthogonal"
SIZE = "the size of their step"
# Nested Learning, Eq 10-13 (momentum) and appendix B, Eq 100-111 (Adam)
BUFFERS: dict[str, tuple[Buffer, ...]] = {
    "sgd": (),
    "momentum": (Buffer("m", "-<m, g>", "Hebbian with decay: m <- beta m + g", DIRECTION),),
    "adamw": (
        Buffer("m", "-<m, g>", "Hebbian with decay: m <- beta1 m + (1 - beta1) g", DIRECTION),
        Buffer(
            "v",
            "|v - g^2|^2 / 2",
            "delta rule: v <- beta2 v + (1 - beta2) g^2",
            SIZE,
        ),
    ),
    # Eq 75, Algorithm 1
    "m3": (
        Buffer("M1", "-<M1, g>", "Hebbian with decay: M1 <- beta1 M1 + (1 - beta1) g", READ),
        Buffer("V", "|V - g^2|^2 / 2", "delta rule: V <- beta2 V + (1 - beta2) g^2", SIZE),
        Buffer(
            "M2",
            "-<M2, mean of g>",
            "Hebbian with decay: M2 <- beta3 M2 + (1 - beta3) mean of the gradients since",
            READ,
            steps=16,
        ),
    ),
    # Eq 48-49
    "delta_momentum": (
        Buffer("m", "|m g^T + P|^2 / 2", "delta rule: m <- m (alpha I - k g^T g) + P g", DIRECTION),
    ),
    # Eq 42, 52
    "nonlinear_momentum": (
        Buffer("m", "-<m, g>", "Hebbian with decay: m <- alpha m + (1 - alpha) g", READ),
    ),
    # Eq 46-47, 51
    "feature_momentum": (
        Buffer("m", "<m g^T, P>", "Hebbian with decay: m <- alpha m + P phi(g)", DIRECTION),
    ),
    # Eq 50
    "deep_momentum": (
        Buffer(
            "m(u)",
            "|m(u) + u|^2 / 2",
            "gradient descent with decay of a network: theta <- alpha theta - eta grad",
            "their step is its output",
        ),
    ),
    # Eq 56-57: the weights themselves are what is written, nothing is kept beside them
    "delta_gd": (),
    # Eq 100-105
    "elementwise_memory": (
        Buffer("M, H", "sum of w (m g - P)^2", "closed form: m = P M / H", DIRECTION),
    ),
}


def name_of(optimizer: Optimizer) -> str:
    """The name in the table of an optimizer, ours or torch's."""
    kind = type(optimizer).__name__
    if kind == "SGD":
        return "momentum" if optimizer.defaults["momentum"] else "sgd"
    return {name.replace("_", ""): name for name in BUFFERS}.get(kind.lower(), kind.lower())


def optimizer_levels(
    optimizer: str, *, period: int, parameters: int, of: tuple[str, ...] = ("weights",)
) -> list[Level]:
    """The boxes an optimizer keeps for ``parameters`` weights written every ``period`` tokens.

    ``of`` names the boxes of these weights.

    All share one level; the weights' own box depends on them (Def 2: same frequency, and the new
    weights need the new buffers). An unknown optimizer raises UserError.
    """
    if optimizer not in BUFFERS:
        raise UserError(f"unknown optimizer {optimizer!r}: {did_you_mean(optimizer, BUFFERS)}")
    return [
        Level(
            name=f"{optimizer} {buffer.name}, period {period * buffer.steps}",
            period=period * buffer.steps,
            parameters=parameters,
            objective=buffer.objective,
            rule=buffer.rule,
            context=f"gradients of the weights, one for each {period} tokens of a stream",
            transfer=tuple(move for name in of for move in between(name, buffer.what)),
        )
        for buffer in BUFFERS[optimizer]
    ]


def between(weights: str, what: str) -> tuple[Transfer, Transfer]:
    """The step that a memory of gradients gives to weights, and the gradients they give to it.

    Source: arXiv 2512.24695, Eq 22-23, section 3.3: a model makes the context of its optimizer.
    """
    return (
        Transfer(kind="direct", partner=weights, what=what),
        Transfer(kind="context generation", partner=weights, what="their gradients are its keys"),
    )
