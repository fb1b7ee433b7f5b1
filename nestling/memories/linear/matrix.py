"""Code shared by all matrix memories: heads, the initial matrix, the recurrence, the level."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from nestling.core.error import UserError
from nestling.core.level import Level
from nestling.core.memory import Flow
from nestling.core.named import traceable
from nestling.core.transfer import MADE, READ, Transfer
from nestling.ops.momentum_gated_delta_rule import DeltaState, momentum_gated_delta_rule

INITIAL_STD = 0.02
NORM_EPS = 1e-5


@traceable
class Tokens(NamedTuple):
    """The inputs of the recurrence for each token; letters as in the kernel's step.py."""

    q: Float[Tensor, "B T H K"]
    k: Float[Tensor, "B T H K"]
    w: Float[Tensor, "B T H V"]
    alpha: Float[Tensor, "B T H"]
    beta: Float[Tensor, "B T H"] | None = None  # None: nothing is erased
    erase_key: Float[Tensor, "B T H K"] | None = None  # None: k


def head_width(width: int | float, num_heads: int, even: bool = False) -> int:
    """Channels per head; UserError if ``width`` channels do not split into equal heads."""
    each = width / num_heads
    if each != int(each) or each < 1 or (even and each % 2):
        kind = "even width" if even else "whole width"
        raise UserError(f"{width:g} channels do not split into {num_heads} heads of {kind}")
    return int(each)


def split_heads(x: Float[Tensor, "B T C"], num_heads: int) -> Float[Tensor, "B T H K"]:
    """Split the channels into heads, in the precision of the recurrence: at least float32."""
    return in_full(x).unflatten(-1, (num_heads, -1))


def in_full(x: Tensor) -> Tensor:
    """x in float32 or wider."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def zero_matrix(like: Tensor, *shape: int) -> Float[Tensor, "B H V K"]:
    """The matrix before the first token, in the precision of the recurrence."""
    return in_full(like.new_zeros(())).new_zeros(shape)


def scan(
    tokens: Tokens, weight: Float[Tensor, "B H V K"], flow: Flow, read: str = "post"
) -> tuple[Float[Tensor, "B T H V"], Float[Tensor, "B H V K"]]:
    """Write every token and read after its write; returns y and the final matrix.

    W_t = alpha_t W_{t-1} - beta_t (W_{t-1} p_t) k_t^T + w_t k_t^T;  y_t = W_t q_t, or W_{t-1} q_t
    with ``read="pre"``.
    """
    still = weight.new_zeros(()).expand_as(weight)
    y, state = momentum_gated_delta_rule(
        **tokens._asdict(),
        state=DeltaState(weight, still),
        reset=flow.reset,
        mask=flow.mask,
        read=read,
    )
    return y, state.weight


def matrix_level(
    name: str,
    objective: str,
    rule: str,
    parameters: int,
    transfer: tuple[Transfer, ...] = (READ, MADE),
) -> Level:
    """The level of a matrix that is written at every token."""
    return Level(
        name=name,
        period=1,
        parameters=parameters,
        per_sequence=True,
        objective=objective,
        rule=rule,
        context="the key and the value of each token",
        transfer=transfer,
    )
