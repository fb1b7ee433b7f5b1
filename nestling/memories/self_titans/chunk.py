"""The self-modifying Titans for a chunk of tokens, in which a period can only end at the last one.

Letters as in memory.py.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from nestling.core.named import traceable
from nestling.core.network import gelu_and_slope
from nestling.memories.parts import unit
from nestling.memories.period import advance
from nestling.memories.self_titans.channel import write_rows
from nestling.memories.self_titans.given import keys_of, slopes_of_given
from nestling.memories.self_titans.layers import (
    Layers,
    Readouts,
    Slope,
    apply_through,
    cut,
    rows_of,
    shift_through,
)
from nestling.memories.self_titans.options import SelfTitansOptions
from nestling.memories.self_titans.state import SelfTitansState, periods_of
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


@traceable
class Gates(NamedTuple):
    """Retention, write strength and the factor of a write: per token, or per token and row."""

    alpha: Float[Tensor, "B H C *Z"]
    eta: Float[Tensor, "B H 1 C *Z"]
    scale: Float[Tensor, "B H 1 C *Z"]  # eta, times 1 - mu where momentum is normalised
    mu: Float[Tensor, "B H C"] | None
    mask: Bool[Tensor, "B H C"] | None

    def of_rows(self, layer: int, weights: Layers) -> "Gates":
        """The gates of the rows of one layer."""
        rates = (self.alpha, self.eta, self.scale)
        alpha, eta, scale = (rows_of(x, layer, weights, -1) for x in rates)
        return Gates(alpha, eta, scale, self.mu, self.mask)


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
    """Compute k, v and the rates at the anchor, write every memory, read the output memory."""
    base = initial if config.decay_to == "init" else None
    anchor, running = opening(state, base)
    inputs = {"k": k, "eta": k, "alpha": k, "v": v, "q": q, "memory": q}
    read_at_anchor, anchor = apply_through(
        anchor, torch.stack([inputs[name] for name in names], dim=2)
    )
    made = inputs | dict(zip(names, read_at_anchor.unbind(2), strict=True))
    k, v = unit(made["k"]), unit(made["v"])
    gates = gates_of(config, made, rates, mu, valid)
    together = None
    if config.rates == "head":
        together = coefficients(gates.alpha, mu, None, gates.mask).map(lambda x: x.unsqueeze(2))
    if config.values == "own":
        slopes = slopes_of(config, anchor, k, v)
    else:
        slopes = slopes_of_given(config, anchor, keys_of(names, made, k, v), v)
    y = q = unit(made["q"]) if config.adaptive_q else q
    after = []
    for layer, slope in enumerate(slopes):
        weight, momentum = running[layer], state.momentum[layer]
        assert weight is not None and momentum is not None
        old, fixed = DeltaState(weight, momentum), None if base is None else base[layer]
        here = gates if together is not None else gates.of_rows(layer, initial)
        new, y = write(
            config, slope, layer, here, together, old, fixed, functional.gelu(y) if layer else y
        )
        after.append(new)
    y = made["memory"] if config.read == "anchor" else q + y
    weight, momentum = (Layers(*parts) for parts in zip(*after, strict=True))
    periods, state = periods_of(config, len(names)), state._replace(opened=None)
    return y, advance(state, weight, momentum, periods, valid, k.shape[2], ends)


def opening(state: SelfTitansState, base: Layers | None) -> tuple[Layers, Layers]:
    """The full weights at the start of the period, and the current ones; each for a single use."""
    if base is None:
        return state.anchor, state.weight
    if state.anchor.first is not state.weight.first:
        return state.anchor.map(torch.add, base), state.weight
    return shift_through(state.weight, base)


def gates_of(
    config: SelfTitansOptions,
    made: dict[str, Tensor],
    rates: Readouts,
    mu: Float[Tensor, "B H C"] | None,
    valid: Bool[Tensor, "B C"] | None,
) -> Gates:
    """The gates, from the outputs of the memories for the tokens."""
    if rates.alpha_weight is None or rates.alpha_bias is None:
        alpha = torch.ones_like(readout(made["eta"], rates.eta_weight, rates.eta_bias))
    else:
        alpha = torch.sigmoid(readout(made["alpha"], rates.alpha_weight, rates.alpha_bias))
    eta = readout(made["eta"], rates.eta_weight, rates.eta_bias)
    eta = torch.sigmoid(eta) * (1 + alpha).clamp(max=config.eta_max)
    more = (1,) * (eta.ndim - 3)
    mask = None
    if valid is not None:
        mask = valid[:, None].expand(eta.shape[:3])
        eta = eta * mask.view(*mask.shape, *more)
    scale = eta
    if mu is not None and config.normalised_momentum:
        scale = eta * (1 - mu.view(*mu.shape, *more))
    return Gates(alpha, eta[:, :, None], scale[:, :, None], mu, mask)


def slopes_of(
    config: SelfTitansOptions,
    anchor: Layers,
    k: Float[Tensor, "B H C D"],
    v: Float[Tensor, "B H C D"],
) -> list[Slope]:
    """Gradients of the objective with respect to each layer's output, and the layers' inputs.

    Targets are each memory's output for v; with ``detach_target`` they are constants of the inner
    problem.
    """
    count = k.shape[2]
    both, keys = torch.cat([v, k], dim=2)[:, :, None], k[:, :, None]
    z, _ = read_rows(anchor.first, both)
    hidden = slope = back = None
    if anchor.second is None:
        mapped = both + z
    else:
        hidden, slope = gelu_and_slope(z)
        mapped, back = read_rows(anchor.second, hidden)
        mapped = both + mapped
    target = unit(mapped[:, :, :, :count])
    gradient = mapped[:, :, :, count:] - target if config.objective == "l2" else -target
    if not config.detach_target:
        of_target = -gradient if config.objective == "l2" else -mapped[:, :, :, count:]
        of_target = unit_back(of_target, mapped[:, :, :, :count], target)
        gradient = torch.cat([cut(config, gradient), cut(config, of_target)], dim=3)
    else:
        gradient = cut(config, gradient)

    def tokens(x: Tensor) -> Tensor:  # of v, then of k: here k first, or alone
        key = x[:, :, :, count:]
        return key if config.detach_target else torch.cat([key, x[:, :, :, :count]], dim=3)

    inputs = keys if config.detach_target else torch.cat([keys, v[:, :, None]], dim=3)
    if back is None or slope is None or hidden is None:
        return [Slope(inputs, gradient)]
    hidden, slope = tokens(hidden), tokens(slope)
    return [Slope(inputs, slope * read_rows_back(back, gradient)[0]), Slope(hidden, gradient)]


def unit_back(grad: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Back-propagate ``grad``, the gradient with respect to y = unit(x), to x."""
    return (grad - y * (grad * y).sum(-1, keepdim=True)) / x.norm(dim=-1, keepdim=True).clamp(
        min=1e-6
    )


def write(
    config: SelfTitansOptions,
    slope: Slope,
    layer: int,
    gates: Gates,
    together: Coefficients | None,
    state: DeltaState,
    fixed: Float[Tensor, "H M Y X"] | None,
    q: Float[Tensor, "B H C X"],
) -> tuple[DeltaState, Float[Tensor, "B H C Y"]]:
    """Write one layer of all memories, and read that of the last one at q.

    ``fixed`` is the weight that the state is a deviation from; None if the state is the weight.
    ``together`` are the products of the gates if these are per head.
    """
    inputs, count = slope.inputs, q.shape[2]
    u = inputs if config.detach_target else inputs[:, :, :, :count]
    beta, scale = strengths(config, gates, inputs, layer)
    if together is None:
        written = -scale * slope.outputs
        return write_rows(
            config, u, inputs, beta[:, :, :, :count], written, gates.alpha, gates.mu, gates.mask,
            state, fixed, q,
        )  # fmt: skip
    written = -scale[..., None] * slope.outputs
    every = together
    if not config.detach_target:
        beta, every = beta[..., :count], twice(together)
    if config.rule == "dgd":
        inverse = erased_inverse(together.before, u @ u.mT, beta)
        seen = fixed if config.erase == "whole" else None
        gone, state = erase(u, inputs, written, beta, every.before, inverse, state, base=seen)
    else:
        gone = torch.zeros_like(written[:, :, :, :count])
    if not config.detach_target:
        gone = torch.cat([gone, torch.zeros_like(gone)], dim=3)
    span = every.after if config.read == "post" else every.before
    here = span.map(lambda x: x[:, :, -1])
    y, state = read(
        q,
        inputs[:, :, -1],
        written[:, :, -1],
        gone[:, :, -1],
        here,
        state,
        product=read_rows_of_last,
    )
    if fixed is not None:
        y = y + q @ fixed[:, -1].mT
    return close(inputs, written, gone, every, state), y


def twice(gates: Coefficients) -> Coefficients:
    """Coefficients of two writes per token: first those of all tokens, then the second ones."""

    def doubled(x: Tensor) -> Tensor:
        return torch.cat([x, x], dim=-1)

    after, before = (
        span._replace(writes=doubled(span.writes), erased=doubled(span.erased))
        for span in (gates.after, gates.before)
    )
    writes = gates.momentum_writes
    writes = None if writes is None else doubled(writes)
    return Coefficients(after, before, gates.momentum_start, writes)


def strengths(
    config: SelfTitansOptions, gates: Gates, u: Float[Tensor, "B H M1 R X"], layer: int
) -> tuple[Tensor, Tensor]:
    """Strengths of erasing and writing at inputs u: [B, H, M, R], or per row [B, H, M, R, Y]."""
    eta, scale = gates.eta, gates.scale
    if not config.detach_target:
        eta, scale = (torch.cat([x, x], dim=3) for x in (eta, scale))
    if config.step == "raw" or (config.step == "energy" and not layer):
        shape = (*u.shape[:-1], *eta.shape[4:])
        return eta.expand(shape), scale.expand(shape)
    power = u.square().sum(-1)
    power = power[..., None] if eta.ndim > power.ndim else power
    divisor = config.epsilon + power if config.step == "energy" else 1 + eta * power
    return eta / divisor, scale / divisor


def readout(
    x: Float[Tensor, "B H C D"], weight: Float[Tensor, "H *R D"], bias: Float[Tensor, " H *R"]
) -> Float[Tensor, "B H C *R"]:
    """Map each vector to one number, or one per row, with the weights of its head."""
    if weight.ndim == 2:
        return (x @ weight.to(x.dtype)[..., None])[..., 0] + bias.to(x.dtype)[:, None]
    return x @ weight.to(x.dtype).mT + bias.to(x.dtype)[:, None]
