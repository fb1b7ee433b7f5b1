"""How much a change disturbs other text: the energy it adds to the outputs of its maps there."""

import math
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from nestling.continual.study.change import Change, Factors

SAMPLED = 1024  # inputs per map, at most
SMALL = 3e-4  # energy from which on a penalty grows slowly


class Disturbance:
    """A penalty on the energy of a change at inputs X of other text, a mean over its maps W:

        weight * log(1 + energy / SMALL),    energy = mean |X (left right)^T|^2 / |X W^T|^2

    It costs no further reading: X is recorded once. The logarithm lets a small model, which needs
    greater changes, learn as well. Source: the term that keeps old associations in
    arXiv 2210.07229 (MEMIT, Eq 9), for a change that is trained. Deviates: relative to each map.
    """

    def __init__(
        self,
        inputs: Mapping[str, Float[Tensor, "N D"]],
        maps: Mapping[str, Float[Tensor, "M D"]],
        weight: float,
    ):
        self.weight = weight
        self._inputs: dict[str, Tensor] = {}
        self._scale: dict[str, float] = {}
        for name, rows in inputs.items():
            own = rows[:: -(-len(rows) // SAMPLED) or 1].clone()
            energy = float((own @ maps[name].to(own).T).square().sum())
            if energy > 0:
                self._inputs[name] = own
                self._scale[name] = 1 / (energy * len(inputs))

    @torch.no_grad()
    def of(self, change: Change) -> tuple[float, Change]:
        """The penalty, and its gradients for both factors of each map that has one."""
        energy, grads = 0.0, {}
        for name, rows in self._inputs.items():
            left, right = change[name]
            read = rows @ right.T  # [N, R]
            inner, outer, scale = read.T @ read, left.T @ left, self._scale[name]
            energy += scale * float((inner * outer).sum())
            grads[name] = 2 * scale * (left @ inner), 2 * scale * (outer @ (read.T @ rows))
        slope = self.weight / (SMALL + energy)
        penalty = self.weight * math.log1p(energy / SMALL)
        return penalty, {n: Factors(*(slope * g for g in pair)) for n, pair in grads.items()}
