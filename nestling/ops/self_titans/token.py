"""One token of self-modifying Titans, compiled for the CPU: for decoding, without gradients."""

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from nestling.core.bridge import Bridge
from nestling.ops.self_titans import (
    PAIRS,
    PARAMETERS,
    Options,
    named_arguments,
    numbers_of,
    state_arrays,
)

NEW = tuple(f"{name}_{i}" for name in ("weight_out", "momentum_out") for i in (0, 1))
KERNEL = Bridge(
    Path(__file__).parent / "token.cpp",
    "self_titans_token",
    version=2,
    integers="batch heads memories width hidden threads dot",
    numbers="epsilon clip projection_clip eta_max",
    inputs={
        "projected": "batch 1 3 heads width",
        "mu": "batch 1 heads",
        **PARAMETERS,
        **{name: sizes for pair in PAIRS for name, sizes in state_arrays(pair).items()},
    },
    works={
        "forward": {
            **state_arrays("weight_out"),
            **state_arrays("momentum_out"),
            "y": "batch 1 heads width",
        }
    },
)


def available(x: Tensor) -> bool:
    """Whether ``token`` supports the dtype and device of x, and no gradients are needed."""
    return not torch.is_grad_enabled() and KERNEL.available(x)


def token(
    projected: Float[Tensor, "B 1 3 H D"],
    mu: Float[Tensor, "B 1 H"],
    initial: Sequence[Float[Tensor, "H M _ _"]],
    rates: Sequence[Tensor],
    state: Sequence[Float[Tensor, "B H M _ _"]],
    options: Options,
) -> tuple[Float[Tensor, "B 1 H D"], tuple[Float[Tensor, "B H M _ _"], ...]]:
    """The output for one token of each row, and the new weights and momenta of both layers.

    ``projected`` holds q, k, v before normalisation; ``rates`` the weights and biases of eta and
    alpha; ``state`` anchors, weights and momenta, as deviations from ``initial``.

    Source and Deviates: as nestling/memories/self_titans/memory.py:SelfTitans.
    Cost: anchor, weight and momentum are read once, weight and momentum are written once.

    Raises UserError for wrong shapes, dtypes or devices.
    """
    given = named_arguments(projected, mu, initial, rates, state)
    KERNEL.verify(given)
    given = {name: x.contiguous() for name, x in given.items()}
    new = {name: torch.empty_like(given[name.replace("_out", "")]) for name in NEW}
    batch, _, _, heads, width = projected.shape
    made = {**new, "y": projected.new_empty(batch, 1, heads, width)}
    numbers, dot = numbers_of(options), int(options.dot)
    KERNEL.call("forward", projected.dtype, {**given, **made}, numbers=numbers, dot=dot)
    return made["y"], tuple(new.values())
