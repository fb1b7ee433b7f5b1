"""Atlas: the Omega rule with an orthogonalised momentum."""

import math
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from nestling.core.error import UserError
from nestling.core.level import Level
from nestling.memories.deep.again import Again
from nestling.memories.deep.memory import DeepMemory, levels_of
from nestling.memories.deep.network import (
    Weights,
    Write,
    descend,
    gradients,
    init_layers,
    read_base,
    windows,
)
from nestling.memories.deep.omega import WindowOptions
from nestling.ops.momentum_gated_delta_rule.chunk import segment_products
from nestling.ops.momentum_gated_delta_rule.passes import read_rows
from nestling.rules.newton_schulz import newton_schulz


class Atlas(DeepMemory):
    """The Omega rule with Muon as the inner optimizer.

        S_t = mu_t S_{t-1} - sum over i = t - c + 1 .. t of
                             (1 - mu_i) gamma_i grad |M_anchor(phi(k_i)) - v_i|^2 / 2
        M_t = alpha_t M_{t-1} + eta_t NewtonSchulz_5(S_t)

    Gradients, windows and features are those of ``Omega``. The momenta of a period are one linear
    recurrence; Newton-Schulz is then applied to the momentum of every token, as published, for all
    tokens of a segment at once. This needs one matrix per layer and token of a segment; the
    backward pass recomputes them, so that only one segment's matrices are held at a time.

    The step is eta = eta_max / period times a sigmoid, divided by the root of the width in hidden
    layers: M(k) moves by at most about ``eta_max`` in a period.

    Source: arXiv 2505.23735, Eq 32-34 (with the eta of Eq 32). Deviates: as ``Omega``; the bound of
    the step.
    Cost: time O(T d^2 h) for each head's d x h layers beyond the projections, d = D / H, which
    dominates (use narrow ``heads``); memory O(C d h) for segments of C tokens; state 3 times the
    network's weights per head, and 2 D numbers per token of the window.
    """

    update: ClassVar[str] = "S <- mu S - gradients of a window; M <- alpha M + eta NewtonSchulz(S)"
    source: ClassVar[str] = "arXiv 2505.23735 Eq 32-34"

    @dataclass(frozen=True, kw_only=True)
    class Config(WindowOptions):
        """Options of the memory."""

        eta_max: float = 1.0  # largest step, summed over a period
        eta_init: float = 0.2  # the same at the start of training
        newton_schulz: int = 5  # steps

        def __post_init__(self):
            super().__post_init__()
            if not 0 < self.eta_init < self.eta_max:
                raise UserError(
                    f"eta_init is {self.eta_init}, eta_max {self.eta_max}; "
                    "give 0 < eta_init < eta_max"
                )
            if self.newton_schulz < 1:
                raise UserError(f"newton_schulz is {self.newton_schulz}; give at least 1 step")

    def __init__(self, config: Config, *, hidden_size: int, num_heads: int):
        super().__init__(
            config,
            hidden_size=hidden_size,
            num_heads=num_heads,
            gates={
                "gamma": config.gamma_init,
                "mu": config.momentum_init,
                "eta": config.eta_init / config.eta_max,
            },
            window=config.window,
            degree=config.degree,
            momentum=True,
        )
        self.config = config

    def _init_network(self, generator: torch.Generator | None) -> None:
        init_layers(self.initial_layers, self.config.initial_length, generator)

    def _writes(
        self,
        anchor: Weights,
        k: Float[Tensor, "B H N D"],
        v: Float[Tensor, "B H N D"],
        strength: Float[Tensor, "B H N"],
    ) -> list[Write]:
        slopes = gradients(anchor, self.features_of(k), k, v, "l2", self.config.clip)
        return descend(slopes, strength, self.config.epsilon)

    def _strength(self, gates: dict[str, Tensor]) -> Float[Tensor, "B H C"]:
        return gates["gamma"] * (1 - gates["mu"]) / self.config.window

    def _write(
        self,
        writes: list[Write],
        weights: Weights,
        momenta: Weights,
        gates: dict[str, Tensor],
        mask: Bool[Tensor, "B H C"] | None,
        x: Float[Tensor, "B H C F"],
    ) -> tuple[Float[Tensor, "B H C D"], Weights, Weights]:
        config = self.config
        alpha, mu = gates["alpha"], gates["mu"]
        eta = gates["eta"] * (config.eta_max / config.period)
        if mask is not None:
            alpha, mu = (torch.where(mask, gate, 1.0) for gate in (alpha, mu))
            eta = eta * mask
        decay, theta = segment_products(alpha), segment_products(mu)
        pushed = theta[..., 1:] @ windows(alpha.shape[-1], self.window, mask, alpha)
        kept, added = decay[..., 0], decay[..., 1:] * eta[..., None, :]
        base, layers = self.base(), []
        one_layer = partial(_write_layer, steps=config.newton_schulz)
        for layer, write in enumerate(writes):
            x = functional.gelu(x) if layer else x
            step = added / math.sqrt(x.shape[-1]) if layer else added
            parts = (weights[layer], momenta[layer], *write, x, theta[..., 0], pushed, kept, step)
            fixed = None if base is None else read_base(base[layer], x)
            x, *after = Again.apply(one_layer, *parts)
            x = x if fixed is None else x + fixed
            layers.append(after)
        new_weights, new_momenta = zip(*layers, strict=True)
        return x, new_weights, new_momenta

    def levels(self) -> list[Level]:
        """The momentum, and the network."""
        return levels_of(
            self,
            f"|M(phi(k)) - v|^2 / 2 of {self.window} tokens",
            "orthogonal steps with decay",
            "momentum",
        )


def _write_layer(
    weight: Float[Tensor, "B H O I"],
    momentum: Float[Tensor, "B H O I"],
    u: Float[Tensor, "B H N I"],
    w: Float[Tensor, "B H N O"],
    x: Float[Tensor, "B H C I"],
    carried: Float[Tensor, "B H C"],
    pushed: Float[Tensor, "B H C N"],
    kept: Float[Tensor, "B H C"],
    added: Float[Tensor, "B H C C"],
    steps: int,
) -> tuple[Float[Tensor, "B H C O"], Float[Tensor, "B H O I"], Float[Tensor, "B H O I"]]:
    """Read one layer at x after each of its C writes; weight and momentum after the last.

    S_t = carried_t S_0 + sum over i of pushed(t, i) w_i u_i^T
    W_t = kept_t W_0 + sum over s of added(t, s) NewtonSchulz(S_s)
    """
    momenta = (pushed[..., None] * w[:, :, None]).mT @ u[:, :, None]
    momenta = momenta + carried[..., None, None] * momentum[:, :, None]
    steep = newton_schulz(momenta, steps)
    y, weight = read_rows(weight, kept[..., None] * x)
    answers = steep @ x.mT[:, :, None]
    y = y + torch.einsum("bhts,bhsot->bhto", added, answers)
    new = torch.einsum("bhs,bhsoi->bhoi", added[:, :, -1], steep)
    return y, kept[:, :, -1, None, None] * weight + new, momenta[:, :, -1]
