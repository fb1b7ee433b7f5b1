"""Memories that learn pairs given to them: the stages before self-modification (Eq 76-82).

Letters as in memory.py.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from nestling.core.network import gelu_and_slope
from nestling.memories.parts import unit
from nestling.memories.self_titans.layers import Layers, Slope, cut
from nestling.memories.self_titans.options import SelfTitansOptions
from nestling.ops.momentum_gated_delta_rule.passes import read_rows, read_rows_back


def keys_of(
    names: list[str],
    made: dict[str, Tensor],
    k: Float[Tensor, "B H C D"],
    v: Float[Tensor, "B H C D"],
) -> Float[Tensor, "B H M C D"]:
    """The key of each memory: its own output, scaled to unit length; k for the output memory.

    Source: arXiv 2512.24695, Eq 80-81.
    """
    known = {"k": k, "memory": k, "v": v}
    return torch.stack([known[n] if n in known else unit(made[n]) for n in names], dim=2)


def slopes_of_given(
    config: SelfTitansOptions,
    anchor: Layers,
    keys: Float[Tensor, "B H M C D"],
    v: Float[Tensor, "B H C D"],
) -> list[Slope]:
    """Gradients of the objective with respect to each layer's output, and the layers' inputs.

    The target of all memories is the value v.
    """
    z, _ = read_rows(anchor.first, keys)
    hidden = slope = back = None
    if anchor.second is None:
        mapped = keys + z
    else:
        hidden, slope = gelu_and_slope(z)
        mapped, back = read_rows(anchor.second, hidden)
        mapped = keys + mapped
    target = v[:, :, None].expand_as(keys)
    gradient = cut(config, mapped - target if config.objective == "l2" else -target)
    if hidden is None or slope is None or back is None:
        return [Slope(keys, gradient)]
    return [Slope(keys, slope * read_rows_back(back, gradient)[0]), Slope(hidden, gradient)]
