"""The self-modifying Titans in a stretch of tokens in which no period ends but at the last one.

Letters as in memory.py.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from nestling.core.network import gelu_and_slope
from nestling.memories.parts import unit
from nestling.memories.self_titans.layers import (
    Layers,
    Readouts,
    apply_through,
    longest,
    shift_through,
)
from nestling.memories.self_titans.options import SelfTitansOptions
from nestling.memories.self_titans.state import SelfTitansState, advance
from nestling.ops.momentum_gated_delta_rule import DeltaState
from nestling.ops.momentum_gated_delta_rule.chunk import (
    Coefficients,
    close,
    coefficients,
    erase,
    erased_inverse,
    read,
)
from nestling.ops.momentum_gated_delta_rule.passes import (
    read_rows,
    read_rows_back,
    read_rows_of_last,
)


def read_chunk(
    config: SelfTitansOptions,
    names: list[str],
    initial: Layers,
    rates: Readouts,
    q: Float[Tensor, "B H C D"],
    k: Float[Tensor, "B H C D"],
    v: Float[Tensor, "B H C D"],
    mu: Float[Tensor, "B H C"] | None,
    state: SelfTitansState,
    valid: Bool[Tensor, "B C"] | None,
    ends: bool | None,
) -> tuple[Float[Tensor, "B H C D"], SelfTitansState]:
    """Produce k, v and the rates at the anchor, write every memory, read the last one."""
    base = initial if config.decay_to == "init" else None
    anchor, running = opening(state, base)
    inputs = {"k": k, "eta": k, "alpha": k, "v": v, "q": q, "memory": q}
    read_at_anchor, anchor = apply_through(
        anchor, torch.stack([inputs[name] for name in names], dim=2)
    )
    made = dict(zip(names, read_at_anchor.unbind(2), strict=True))
    k, v = unit(made["k"]), unit(made["v"])
    alpha = torch.sigmoid(readout(made["alpha"], rates.alpha_weight, rates.alpha_bias))
    eta = readout(made["eta"], rates.eta_weight, rates.eta_bias)
    eta = torch.sigmoid(eta) * (1 + alpha).clamp(max=config.eta_max)
    mask = None
    if valid is not None:
        mask = valid[:, None].expand_as(alpha)
        eta = eta * mask
    gates = coefficients(alpha, mu, None, mask)
    gradients, hidden = gradients_of(config, anchor, k, v)
    q = unit(made["q"]) if config.adaptive_q else q
    wide = gates.map(lambda x: x.unsqueeze(2))
    beta, scale = eta[:, :, None], (eta if mu is None else eta * (1 - mu))[:, :, None]
    old = DeltaState(running.first, state.momentum.first)
    written = -scale[..., None] * gradients.first
    fixed = None if base is None else base.first
    first, y = write(config, k[:, :, None], beta, written, wide, old, fixed, q)
    weight, momentum = Layers(first.weight, None), Layers(first.momentum, None)
    if hidden is not None:
        assert running.second is not None and state.momentum.second is not None
        assert gradients.second is not None
        energy = config.epsilon + hidden.square().sum(-1)
        old = DeltaState(running.second, state.momentum.second)
        written = -(scale / energy)[..., None] * gradients.second
        fixed = None if base is None else base.second
        second, y = write(
            config, hidden, beta / energy, written, wide, old, fixed, functional.gelu(y)
        )
        weight = Layers(first.weight, second.weight)
        momentum = Layers(first.momentum, second.momentum)
    y = made["memory"] if config.read == "anchor" else q + y
    return y, advance(config, len(names), state, weight, momentum, valid, k.shape[2], ends)


def opening(state: SelfTitansState, base: Layers | None) -> tuple[Layers, Layers]:
    """The whole weights that opened the period, and the running ones, to be used once."""
    if base is None:
        return state.anchor, state.weight
    if state.anchor.first is not state.weight.first:
        return state.anchor.map(torch.add, base), state.weight
    return shift_through(state.weight, base)


def gradients_of(
    config: SelfTitansOptions,
    anchor: Layers,
    k: Float[Tensor, "B H C D"],
    v: Float[Tensor, "B H C D"],
) -> tuple[Layers, Float[Tensor, "B H M C E"] | None]:
    """Gradient of the objective for each layer's output, and the second layer's input.

    Targets are what each memory makes of v; they are constants of the inner problem.
    """
    count = k.shape[2]
    both = torch.cat([v, k], dim=2)[:, :, None]
    z, _ = read_rows(anchor.first, both)
    hidden = slope = back = None
    if anchor.second is None:
        mapped = both + z
    else:
        h, slope = gelu_and_slope(z)
        mapped, back = read_rows(anchor.second, h)
        mapped = both + mapped
        hidden, slope = h[:, :, :, count:], slope[:, :, :, count:]
    target = unit(mapped[:, :, :, :count])
    gradient = mapped[:, :, :, count:] - target if config.objective == "l2" else -target
    length = gradient.norm(dim=-1, keepdim=True)
    most = longest(config, gradient)
    gradient = gradient * (most / length.clamp(min=most))
    if back is None or slope is None:
        return Layers(gradient, None), None
    return Layers(slope * read_rows_back(back, gradient)[0], gradient), hidden


def write(
    config: SelfTitansOptions,
    u: Float[Tensor, "B H M1 C X"],
    beta: Float[Tensor, "B H M1 C"],
    written: Float[Tensor, "B H M C Y"],
    gates: Coefficients,
    state: DeltaState,
    fixed: Float[Tensor, "H M Y X"] | None,
    q: Float[Tensor, "B H C X"],
) -> tuple[DeltaState, Float[Tensor, "B H C Y"]]:
    """Write one layer of all memories, and read that of the last one at q.

    ``fixed`` is what the state is the deviation from; None if it is the weight itself.
    """
    if config.rule == "dgd":
        inverse = erased_inverse(gates.before, u @ u.mT, beta)
        seen = fixed if config.erase == "whole" else None
        gone, state = erase(u, u, written, beta, gates.before, inverse, state, base=seen)
    else:
        gone = torch.zeros_like(written)
    span = gates.after if config.read == "post" else gates.before
    here = span.map(lambda x: x[:, :, -1])
    y, state = read(
        q,
        u[:, :, -1],
        written[:, :, -1],
        gone[:, :, -1],
        here,
        state,
        product=read_rows_of_last,
    )
    if fixed is not None:
        y = y + q @ fixed[:, -1].mT
    return close(u, written, gone, gates, state), y


def readout(
    x: Float[Tensor, "B H C D"], weight: Float[Tensor, "H D"], bias: Float[Tensor, " H"]
) -> Float[Tensor, "B H C"]:
    """One number of each vector, by the weights of its head."""
    return (x @ weight.to(x.dtype)[..., None])[..., 0] + bias.to(x.dtype)[:, None]
