"""Delta momentum for whole groups in one compiled pass."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from nestling.optim import sweep
from nestling.rules.delta_momentum import bound_of, layout_of


def write_at_once(
    group: dict[str, Any],
    parameters: list[Tensor],
    states: Mapping[Tensor, dict[str, Any]],
    lengths: Mapping[Tensor, Tensor],
) -> list[Tensor]:
    """Write the parameters that the compiled code supports; returns the others."""
    if group["preconditioner"] != "none":
        return parameters
    rest, kinds = [], {}
    for parameter in parameters:
        layout = layout_of(group["layout"], parameter.ndim)
        width = math.prod(parameter.shape[1:]) if layout == "row" else 0
        m, g = states[parameter]["m"], parameter.grad
        narrow = layout != "matrix" and width <= sweep.WIDEST
        if g is None or not narrow or not sweep.fits(parameter, m, g):
            rest.append(parameter)
            continue
        kind = bound_of(group["decay_norm"], layout)
        kinds.setdefault(parameter.dtype, []).append((parameter, m, g, width, kind))
    for some in kinds.values():
        of, m, g, widths, bounds = (list(column) for column in zip(*some, strict=True))
        sweep.write(
            of,
            m,
            g,
            widths=widths,
            kinds=bounds,
            squares=squares_of(of, g, widths, lengths),
            alpha=group["alpha"],
            eta=group["eta_decay"],
            lr=float(group["lr"]),
            kept=1 - float(group["lr"]) * group["weight_decay"],
            maximize=group["maximize"],
        )
    return rest


def squares_of(
    parameters: list[Tensor],
    g: list[Tensor],
    widths: list[int],
    lengths: Mapping[Tensor, Tensor],
) -> Tensor:
    """|g|^2 of each gradient, from the norms if known; else only where the rule needs it."""
    if all(parameter in lengths for parameter in parameters):
        return torch.stack([lengths[parameter] for parameter in parameters]).double().square()
    found = torch.zeros(len(g), dtype=torch.float64)
    if needed := [number for number, width in enumerate(widths) if not width]:
        found[needed] = sweep.squares([g[number] for number in needed])
    return found
