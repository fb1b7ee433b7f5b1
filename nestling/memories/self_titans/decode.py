"""One token of the self-modifying Titans: the same map as the chunk form, in few passes.

Letters as in memory.py. Here nothing is a matrix of coefficients, every weight is touched as often
as the equation says, and vectors are columns: a product with one column costs half of that with
one row. Most of what is left is the cost of starting an operation, so there are few of them.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from nestling.memories.parts import unit
from nestling.memories.self_titans.layers import Layers, Readouts, longest
from nestling.memories.self_titans.options import SelfTitansOptions


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

    Without gradients the whole anchors are kept in the state until the period ends; a row carried
    over a change of the parameters reads by the old ones till then, as it does what it keeps.

    Cost: three passes over the anchors, four over the running weights and three over the momenta.
    """
    base = initial if config.decay_to == "init" else None
    anchor = state.opened
    if anchor is None or torch.is_grad_enabled():
        anchor = state.anchor if base is None else state.anchor.map(torch.add, base)
    sources = {"v": v, "q": q, "memory": q}
    columns = torch.stack([sources.get(name, k) for name in names], dim=2).mT
    made = mapped(anchor, columns)
    key, value = names.index("k"), names.index("v")
    pair = unit(made[:, :, key : value + 1 : value - key, :, 0])  # k, v
    eta, alpha = rates(config, names, made, readouts)
    gradients, hidden = gradients_of(config, anchor, pair)
    mu = None if mu is None else mu[..., None, None]
    scale = eta if mu is None else torch.addcmul(eta, eta, mu, value=-1)
    old = [(state.weight.first, state.momentum.first)]
    first = write(
        config, *old[0], pair[:, :, None, :1], gradients.first, (alpha, eta, scale, mu),
        None if base is None else base.first,
    )  # fmt: skip
    new, weight, momentum = [first], Layers(first[0], None), Layers(first[1], None)
    if hidden is not None and gradients.second is not None:
        energy = hidden.square().sum(-1, keepdim=True) + config.epsilon
        old.append((state.weight.second, state.momentum.second))
        second = write(
            config, *old[1], hidden, gradients.second, (alpha, eta / energy, scale / energy, mu),
            None if base is None else base.second,
        )  # fmt: skip
        new.append(second)
        weight, momentum = Layers(first[0], second[0]), Layers(first[1], second[1])
    if config.read == "anchor":
        y = made[:, :, -1].mT
    else:
        asked = unit(made[:, :, names.index("q")].mT) if config.adaptive_q else q
        read = new if config.read == "post" else old
        y = answer([layer for layer, _ in read], base, asked)
    after = state._replace(weight=weight, momentum=momentum, opened=anchor)
    return y, move_on(config, len(names), after, base)


def rates(
    config: SelfTitansOptions,
    names: list[str],
    made: Float[Tensor, "B H M D 1"],
    readouts: Readouts,
) -> tuple[Float[Tensor, "B H 1 1 1"], Float[Tensor, "B H 1 1 1"]]:
    """Write strength and retention, from what their two memories make."""
    assert names[1:3] == ["eta", "alpha"]
    weight = torch.stack((readouts.eta_weight, readouts.alpha_weight), dim=1)
    bias = torch.stack((readouts.eta_bias, readouts.alpha_bias), dim=1)
    seen = (made[:, :, 1:3, :, 0] * weight.to(made.dtype)).sum(-1) + bias.to(made.dtype)
    both = torch.sigmoid(seen)[..., None, None]
    eta, alpha = both[:, :, :1], both[:, :, 1:]
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


def gradients_of(
    config: SelfTitansOptions, anchor: Layers, pair: Float[Tensor, "B H 2 D"]
) -> tuple[Layers, Float[Tensor, "B H M 1 E"] | None]:
    """Gradient of the objective for each layer's output, and the second layer's input at k.

    ``pair`` holds k and v. Targets are what each memory makes of v, constants of the objective.
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
    length = torch.linalg.vector_norm(gradient, dim=-2, keepdim=True)
    gradient = gradient / (length / longest(config, gradient)).clamp(min=1)
    if anchor.second is None or z is None or hidden is None:
        return Layers(gradient, None), None
    back = times(anchor.second.mT, gradient)
    back = torch.ops.aten.gelu_backward(back, z[..., :1])
    return Layers(back, gradient), hidden[..., :1].mT


def write(
    config: SelfTitansOptions,
    weight: Float[Tensor, "B H M V K"],
    momentum: Float[Tensor, "B H M V K"],
    u: Float[Tensor, "B H #M 1 K"],
    gradient: Float[Tensor, "B H M V 1"],
    rate: tuple[Tensor, Tensor, Tensor, Tensor | None],  # alpha, beta, scale, mu
    fixed: Float[Tensor, "H M V K"] | None,
) -> tuple[Float[Tensor, "B H M V K"], Float[Tensor, "B H M V K"]]:
    """S <- mu S - scale g u^T; D <- alpha D - beta (D u) u^T + S: the new D and S."""
    alpha, beta, scale, mu = rate
    step = scale * gradient
    change = step
    if config.rule == "dgd":
        seen = times(weight, u.mT)
        if fixed is not None and config.erase == "whole":
            seen = seen + times(fixed.expand_as(weight), u.mT)
        change = torch.addcmul(step, beta, seen)
    if mu is None:
        return (alpha * weight).addcmul_(change, u, value=-1), momentum
    kept = mu * momentum
    new = torch.addcmul(kept, alpha, weight).addcmul_(change, u, value=-1)
    return new, kept.addcmul_(step, u, value=-1)


def move_on(config: SelfTitansOptions, memories: int, state: Any, base: Layers | None) -> Any:
    """One token more, and the anchors at the running weights where a period has ended.

    The host asks once whether any has; compiled, and on an accelerator, where asking would break
    the graph or wait, every anchor is chosen anew.
    """
    count = state.count + 1
    state = state._replace(count=count, opened=None if torch.is_grad_enabled() else state.opened)
    periods = [config.projection_period] * (memories - 1) + [config.period]
    if count.device.type == "cpu" and not torch.compiler.is_compiling():
        ends = {n % period == 0 for n in count.tolist() for period in set(periods)}
        if ends == {False}:
            return state
        if ends == {True}:
            return state._replace(anchor=state.weight, opened=None)
    # made on the device: a copy from the host cannot be captured in a CUDA graph
    faster = torch.arange(memories, device=count.device) < memories - 1
    moves = count[:, None] % torch.where(faster, config.projection_period, config.period) == 0
    moves = moves[:, None, :, None, None]

    def choose(new: Tensor, old: Tensor) -> Tensor:
        return torch.where(moves, new, old)

    anchor = state.weight.map(choose, state.anchor)
    if state.opened is None:
        return state._replace(anchor=anchor)
    fresh = state.weight if base is None else state.weight.map(torch.add, base)
    return state._replace(anchor=anchor, opened=fresh.map(choose, state.opened))
