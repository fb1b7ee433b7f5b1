"""One token of the self-modifying Titans: the same map as the chunk form, in few passes.

Letters as in memory.py; here nothing is a matrix of coefficients, and every weight is touched as
often as the equation says.
"""

from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from nestling.core.network import gelu_and_slope
from nestling.memories.parts import unit
from nestling.memories.self_titans.layers import Layers


class Readouts(NamedTuple):
    """The weights and biases that make the rates, of each head."""

    eta_weight: Float[Tensor, "H D"]
    eta_bias: Float[Tensor, " H"]
    alpha_weight: Float[Tensor, "H D"]
    alpha_bias: Float[Tensor, " H"]


def one_token(
    config: Any,  # SelfTitans.Config
    names: list[str],
    initial: Layers,
    readouts: Readouts,
    q: Float[Tensor, "B H 1 D"],
    k: Float[Tensor, "B H 1 D"],
    v: Float[Tensor, "B H 1 D"],
    mu: Float[Tensor, "B H 1"] | None,
    state: Any,  # SelfTitansState
) -> tuple[Float[Tensor, "B H 1 D"], Any]:
    """Read and write one token that no row masks and at which no document starts.

    Without gradients the whole anchors are kept in the state until the period ends; a row carried
    over a change of the parameters reads by the old ones till then, as it does what it keeps.

    Cost: three passes over the anchors, four over the running weights and three over the momenta.
    """
    base = initial if config.decay_to == "init" else None
    anchor = state.opened
    if anchor is None or torch.is_grad_enabled():
        anchor = state.anchor if base is None else state.anchor.map(torch.add, base)
    sources = {"v": v, "q": q, "memory": q}
    made = rows_of(anchor, torch.stack([sources.get(name, k) for name in names], dim=2))
    k, v = unit(made[:, :, names.index("k")]), unit(made[:, :, names.index("v")])
    alpha = torch.sigmoid(
        readout(made[:, :, names.index("alpha")], readouts.alpha_weight, readouts.alpha_bias)
    )
    eta = readout(made[:, :, names.index("eta")], readouts.eta_weight, readouts.eta_bias)
    eta = torch.sigmoid(eta) * (1 + alpha).clamp(max=config.eta_max)
    gradients, hidden = gradients_of(anchor, k, v, config)
    asked = unit(made[:, :, names.index("q")]) if config.adaptive_q else q
    # all rates as [B, H, 1, 1, 1] beside the weights [B, H, M, V, K]
    alpha, eta = alpha[..., None, None], eta[..., None, None]
    mu = None if mu is None else mu[..., None, None]
    scale = eta if mu is None else eta * (1 - mu)
    first = write(
        state.weight.first, state.momentum.first, k[:, :, None], gradients.first, alpha, eta,
        scale, mu, None if base is None else base.first, config,
    )  # fmt: skip
    read = [first if config.read == "post" else (state.weight.first, None)]
    weight, momentum = Layers(first[0], None), Layers(first[1], None)
    if hidden is not None and gradients.second is not None:
        energy = config.epsilon + hidden.square().sum(-1, keepdim=True)
        second = write(
            state.weight.second, state.momentum.second, hidden, gradients.second, alpha,
            eta / energy, scale / energy, mu, None if base is None else base.second, config,
        )  # fmt: skip
        read.append(second if config.read == "post" else (state.weight.second, None))
        weight, momentum = Layers(first[0], second[0]), Layers(first[1], second[1])
    if config.read == "anchor":
        y = made[:, :, names.index("memory")]
    else:
        y = asked + answer([x[0] for x in read], base, asked)
    after = state._replace(weight=weight, momentum=momentum, count=state.count + 1, opened=anchor)
    return y, move_on(config, len(names), after, base)


def times(weight: Float[Tensor, "*N V K"], rows: Float[Tensor, "*M C K"]) -> Tensor:
    """``rows @ weight^T`` for one row or a few, each weight read once."""
    lead = weight.shape[:-2]
    rows = rows.expand(*lead, *rows.shape[-2:])
    if rows.shape[-2] == 1:  # as a product with a column, which costs half
        y = torch.bmm(weight.flatten(0, -3), rows.flatten(0, -3).mT).mT
    else:
        y = torch.bmm(rows.flatten(0, -3), weight.flatten(0, -3).mT)
    return y.unflatten(0, lead)


def rows_of(weights: Layers, x: Float[Tensor, "B H M 1 D"]) -> Float[Tensor, "B H M 1 D"]:
    """M(x) of every memory."""
    z = times(weights.first, x)
    if weights.second is None:
        return x + z
    return x + times(weights.second, functional.gelu(z))


def answer(
    weights: list[Tensor], base: Layers | None, q: Float[Tensor, "B H 1 D"]
) -> Float[Tensor, "B H 1 D"]:
    """M(q) - q of the last memory, at deviations ``weights`` from ``base``."""
    x = q
    for index, weight in enumerate(weights):
        x = functional.gelu(x) if index else x
        y = times(weight[:, :, -1], x)
        fixed = None if base is None else base[index]
        x = y if fixed is None else y + x @ fixed[:, -1].mT
    return x


def readout(
    x: Float[Tensor, "B H 1 D"], weight: Float[Tensor, "H D"], bias: Float[Tensor, " H"]
) -> Float[Tensor, "B H 1"]:
    """A number for each head."""
    return (x * weight.to(x.dtype)[:, None]).sum(-1) + bias.to(x.dtype)[:, None]


def gradients_of(
    anchor: Layers, k: Float[Tensor, "B H 1 D"], v: Float[Tensor, "B H 1 D"], config: Any
) -> tuple[Layers, Float[Tensor, "B H M 1 E"] | None]:
    """Gradient of the objective for each layer's output, and the second layer's input at k."""
    both = torch.cat((v, k), dim=2)[:, :, None]
    z = times(anchor.first, both)
    hidden = slope = None
    if anchor.second is None:
        mapped = both + z
    else:
        hidden, slope = gelu_and_slope(z)
        mapped = both + times(anchor.second, hidden)
    target, own = unit(mapped[:, :, :, :1]), mapped[:, :, :, 1:]
    gradient = own - target if config.objective == "l2" else -target
    length = torch.linalg.vector_norm(gradient, dim=-1, keepdim=True)
    gradient = gradient * (config.clip / length.clamp(min=config.clip))
    if anchor.second is None or hidden is None or slope is None:
        return Layers(gradient, None), None
    back = torch.bmm(gradient.flatten(0, 2), anchor.second.flatten(0, 2))
    back = back.unflatten(0, gradient.shape[:3])
    return Layers(slope[:, :, :, 1:] * back, gradient), hidden[:, :, :, 1:]


def write(
    weight: Float[Tensor, "B H M V K"],
    momentum: Float[Tensor, "B H M V K"],
    u: Float[Tensor, "B H #M 1 K"],
    gradient: Float[Tensor, "B H M 1 V"],
    alpha: Float[Tensor, "B H 1 1 1"],
    beta: Float[Tensor, "B H #M 1 1"],
    scale: Float[Tensor, "B H #M 1 1"],
    mu: Float[Tensor, "B H 1 1 1"] | None,
    fixed: Float[Tensor, "H M V K"] | None,
    config: Any,
) -> tuple[Float[Tensor, "B H M V K"], Float[Tensor, "B H M V K"]]:
    """S <- mu S - scale g u^T; D <- alpha D - beta (D u) u^T + S: the new D and S."""
    step = -scale * gradient
    change = step
    if config.rule == "dgd":
        seen = times(weight, u)
        if fixed is not None and config.erase == "whole":
            seen = seen + times(fixed.expand_as(weight), u)
        change = step - beta * seen
    if mu is None:
        return torch.addcmul(alpha * weight, change.mT, u), momentum
    kept = mu * momentum
    weight = (alpha * weight).add_(kept).addcmul_(change.mT, u)
    return weight, kept.addcmul_(step.mT, u)


def move_on(config: Any, memories: int, state: Any, base: Layers | None) -> Any:
    """The state with the anchors at the running weights, where a period has ended.

    The host asks once whether any has; compiled, and on an accelerator, where asking would break
    the graph or wait, every anchor is chosen anew.
    """
    count, whole = state.count, state.opened
    if torch.is_grad_enabled():
        whole = None
    if config.period == config.projection_period:
        moves = (count % config.period == 0)[:, None]
    else:
        periods = [config.projection_period] * (memories - 1) + [config.period]
        moves = count[:, None] % torch.tensor(periods, device=count.device) == 0
    if count.device.type == "cpu" and not torch.compiler.is_compiling():
        if not bool(moves.any()):
            return state._replace(opened=whole)
        if bool(moves.all()):
            return state._replace(anchor=state.weight, opened=None)
    chosen = moves[:, None, :, None, None]

    def choose(new: Tensor, old: Tensor) -> Tensor:
        return torch.where(chosen, new, old)

    anchor = state.weight.map(choose, state.anchor)
    if whole is None:
        return state._replace(anchor=anchor, opened=None)
    fresh = state.weight if base is None else state.weight.map(torch.add, base)
    return state._replace(anchor=anchor, opened=fresh.map(choose, whole))
