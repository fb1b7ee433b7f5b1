"""One token of the self-modifying Titans: the same map as the chunk form, in few passes.

Letters as in memory.py. There are no matrices of coefficients, every weight is read as often as the
equations require, and vectors are columns, because a product with one column costs half of one with
a row. What remains is mostly the cost of launching an operation, so there are few of them.
"""

from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from nestling.memories.parts import unit
from nestling.memories.period import new_anchor, period_ends
from nestling.memories.self_titans.layers import Layers, Readouts, longest, rows_of
from nestling.memories.self_titans.options import SelfTitansOptions
from nestling.memories.self_titans.state import periods_of


def one_token(
    config: SelfTitansOptions,
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

    Without gradients the full anchors are kept in the state until the period ends; if the
    parameters change in between, the row uses the old ones until then.

    Cost: three passes over the anchors, four over the current weights and three over the momenta.
    """
    base = initial if config.decay_to == "init" else None
    anchor = state.opened
    if anchor is None or torch.is_grad_enabled():
        anchor = state.anchor if base is None else state.anchor.map(torch.add, base)
    sources = {"k": k, "eta": k, "alpha": k, "v": v, "q": q, "memory": q}
    columns = torch.stack([sources[name] for name in names], dim=2).mT
    made = mapped(anchor, columns)

    def of(*wanted: str) -> Float[Tensor, "B H N D"]:
        places = [names.index(name) for name in wanted if name in names]
        if len(places) == len(wanted) and places[-1] > places[0]:
            return made[:, :, places[0] : places[-1] + 1 : places[1] - places[0], :, 0]
        return torch.cat(
            [made[:, :, names.index(n), :, 0][:, :, None] if n in names else sources[n]
             for n in wanted], dim=2,
        )  # fmt: skip

    pair = unit(of("k", "v"))
    eta, alpha = rates(config, of(*("eta", "alpha")[: 1 + config.decay]), readouts)
    slopes = slopes_of(config, anchor, pair)
    mu = None if mu is None else mu[..., None, None]
    scale = eta
    if mu is not None and config.normalised_momentum:
        scale = torch.addcmul(eta, eta, mu, value=-1)
    old, new = [], []
    for layer, slope in enumerate(slopes):
        weight, momentum = state.weight[layer], state.momentum[layer]
        gates = [alpha, eta, scale]
        if config.rates == "channel":
            gates = [rows_of(x, layer, initial, 3) for x in gates]
        fixed = None if base is None else base[layer]
        old.append((weight, momentum))
        new.append(write(config, layer, weight, momentum, slope, gates, mu, fixed))
    if config.read == "anchor":
        y = made[:, :, -1].mT
    else:
        asked = unit(made[:, :, names.index("q")].mT) if config.adaptive_q else q
        read = new if config.read == "post" else old
        y = answer([layer for layer, _ in read], base, asked)
    weight, momentum = (Layers(*parts) for parts in zip(*new, strict=True))
    after = state._replace(weight=weight, momentum=momentum, opened=anchor)
    return y, move_on(config, len(names), after, base)


def rates(
    config: SelfTitansOptions, made: Float[Tensor, "B H N D"], readouts: Readouts
) -> tuple[Float[Tensor, "B H 1 R 1"], Float[Tensor, "B H 1 R 1"]]:
    """Write strength and retention, from the outputs of their memories; R is 1 or all rows."""
    weights = (readouts.eta_weight, readouts.alpha_weight)[: made.shape[2]]
    biases = (readouts.eta_bias, readouts.alpha_bias)[: made.shape[2]]
    weight = torch.stack([w for w in weights if w is not None], dim=1).to(made.dtype)
    bias = torch.stack([b for b in biases if b is not None], dim=1).to(made.dtype)
    if config.rates == "head":
        both = torch.sigmoid((made * weight).sum(-1) + bias)[..., None, None]
    else:
        both = torch.sigmoid((weight @ made[..., None])[..., 0] + bias)[..., None]
    eta = both[:, :, :1]
    alpha = both[:, :, 1:] if config.decay else torch.ones_like(eta)
    if config.eta_max > 1:
        return eta * (1 + alpha).clamp(max=config.eta_max), alpha
    return (eta if config.eta_max == 1 else eta * config.eta_max), alpha


def times(
    weight: Float[Tensor, "*N V K"],
    columns: Float[Tensor, "*M K C"],
    plus: Float[Tensor, "*L V C"] | None = None,
) -> Float[Tensor, "*N V C"]:
    """``weight @ columns + plus`` as one batched product; ``columns`` and ``plus`` broadcast."""
    lead = weight.shape[:-2]
    columns = columns.expand(*lead, *columns.shape[-2:])
    if plus is not None:
        plus = plus.expand(*lead, *plus.shape[-2:])
        y = torch.baddbmm(plus.flatten(0, -3), weight.flatten(0, -3), columns.flatten(0, -3))
        return y.unflatten(0, lead)
    return torch.bmm(weight.flatten(0, -3), columns.flatten(0, -3)).unflatten(0, weight.shape[:-2])


def mapped(weights: Layers, columns: Float[Tensor, "B H M D C"]) -> Float[Tensor, "B H M D C"]:
    """M(x) of every memory."""
    if weights.second is None:
        return times(weights.first, columns, plus=columns)
    return times(weights.second, functional.gelu(times(weights.first, columns)), plus=columns)


def answer(
    weights: list[Float[Tensor, "B H M _ _"]], base: Layers | None, q: Float[Tensor, "B H 1 D"]
) -> Float[Tensor, "B H 1 D"]:
    """M(q) of the last memory, at deviations ``weights`` from ``base``."""
    x = q.mT
    for index, weight in enumerate(weights):
        x = functional.gelu(x) if index else x
        whole, fixed = weight[:, :, -1], None if base is None else base[index]
        x = times(whole if fixed is None else whole + fixed[:, -1], x)
    return q + x.mT


class Slope(NamedTuple):
    """The gradient g u^T of one layer; two terms if it also flows through the targets."""

    inputs: list[Float[Tensor, "B H #M 1 K"]]
    outputs: list[Float[Tensor, "B H M V 1"]]


def slopes_of(
    config: SelfTitansOptions, anchor: Layers, pair: Float[Tensor, "B H 2 D"]
) -> list[Slope]:
    """Gradients of the objective with respect to each layer's output, and the layers' inputs.

    ``pair`` holds k and v. Targets are each memory's output for v; with ``detach_target`` they are
    constants of the objective.
    """
    columns = pair.mT[:, :, None]
    columns = columns.expand(*anchor.first.shape[:-2], *columns.shape[-2:]).contiguous()
    z = hidden = None
    if anchor.second is None:
        both = times(anchor.first, columns, plus=columns)
    else:
        z = times(anchor.first, columns)
        hidden = functional.gelu(z)
        both = times(anchor.second, hidden, plus=columns)
    own, target = both[..., :1], functional.normalize(both[..., 1:], dim=-2, eps=1e-6)
    gradient = own - target if config.objective == "l2" else -target
    gradients = [gradient]
    if not config.detach_target:
        back = -gradient if config.objective == "l2" else -own
        along = (back * target).sum(-2, keepdim=True)
        length = torch.linalg.vector_norm(both[..., 1:], dim=-2, keepdim=True)
        gradients.append((back - along * target) / length.clamp(min=1e-6))
    for place, gradient in enumerate(gradients):
        length = torch.linalg.vector_norm(gradient, dim=-2, keepdim=True)
        gradients[place] = gradient / (length / longest(config, gradient)).clamp(min=1)
    inputs = [pair[:, :, None, i : i + 1] for i in range(len(gradients))]
    if anchor.second is None or z is None or hidden is None:
        return [Slope(inputs, gradients)]
    firsts, seconds = [], []
    for i, gradient in enumerate(gradients):
        back = times(anchor.second.mT, gradient)
        firsts.append(torch.ops.aten.gelu_backward(back, z[..., i : i + 1]))
        seconds.append(hidden[..., i : i + 1].mT)
    return [Slope(inputs, firsts), Slope(seconds, gradients)]


def write(
    config: SelfTitansOptions,
    layer: int,
    weight: Float[Tensor, "B H M V K"],
    momentum: Float[Tensor, "B H M V K"],
    slope: Slope,
    gates: list[Float[Tensor, "B H 1 _ 1"]],  # alpha, eta, scale
    mu: Float[Tensor, "B H 1 1 1"] | None,
    fixed: Float[Tensor, "H M V K"] | None,
) -> tuple[Float[Tensor, "B H M V K"], Float[Tensor, "B H M V K"]]:
    """S <- mu S - scale g u^T; D <- alpha D - beta (D u) u^T + S: the new D and S."""
    alpha, eta, scale = gates
    u, gradient = slope.inputs[0], slope.outputs[0]
    beta, at_once = strengths(config, eta, scale, u, layer)
    step = at_once * gradient
    change = step
    if config.rule == "dgd":
        seen = times(weight, u.mT)
        if fixed is not None and config.erase == "whole":
            seen = seen + times(fixed.expand_as(weight), u.mT)
        change = torch.addcmul(step, beta, seen)
    if mu is None:
        kept, new = momentum, (alpha * weight).addcmul_(change, u, value=-1)
    else:
        kept = mu * momentum
        new = torch.addcmul(kept, alpha, weight).addcmul_(change, u, value=-1)
        kept = kept.addcmul_(step, u, value=-1)
    for u, gradient in zip(slope.inputs[1:], slope.outputs[1:], strict=True):
        step = strengths(config, eta, scale, u, layer)[1] * gradient
        new = torch.addcmul(new, step, u, value=-1)
        kept = kept if mu is None else torch.addcmul(kept, step, u, value=-1)
    return new, kept


def strengths(
    config: SelfTitansOptions, eta: Tensor, scale: Tensor, u: Tensor, layer: int
) -> tuple[Tensor, Tensor]:
    """Strengths of erasing and writing at an input u."""
    if config.step == "raw" or (config.step == "energy" and not layer):
        return eta, scale
    power = u.square().sum(-1, keepdim=True)
    divisor = power + config.epsilon if config.step == "energy" else 1 + eta * power
    return eta / divisor, scale / divisor


def move_on(config: SelfTitansOptions, memories: int, state: Any, base: Layers | None) -> Any:
    """Count one more token, and set the anchors to the current weights where a period has ended.

    If the host does not know which have (``ended``), the choice is made on the device.
    """
    count, opened = state.count + 1, None if torch.is_grad_enabled() else state.opened
    state, periods = state._replace(count=count, opened=opened), periods_of(config, memories)
    ends = period_ends(count, periods)
    if ends is not None:
        return state._replace(anchor=state.weight, opened=None) if ends else state
    anchor = new_anchor(count, periods, None, state.weight, state.anchor)
    if opened is not None:
        fresh = state.weight if base is None else state.weight.map(torch.add, base)
        opened = new_anchor(count, periods, None, fresh, opened)
    return state._replace(anchor=anchor, opened=opened)
