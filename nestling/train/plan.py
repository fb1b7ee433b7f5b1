"""What a training run will take before it is started: parameters, operations, memory, days."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nestling.core.error import UserError
from nestling.models.config import HopeConfig
from nestling.models.hf import HopeForCausalLM
from nestling.optim import Leveled
from nestling.optim.leveled import steps_of
from nestling.optim.ruled import Ruled
from nestling.train.config import TrainConfig
from nestling.train.run import optimizer_of
from nestling.train.sketch import cost

TOKENS_A_PARAMETER = 20  # arXiv 2203.15556


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Of one rank unless it says otherwise; memory in bytes."""

    parameters: int  # of the model
    flops: float  # a token, forward and backward: matrix products
    weights: int
    gradients: int
    optimizer: int
    activations: int  # and what else is made on the way, at the most; the logits among them
    states: int  # what the rows remember between two batches
    memory: int  # at the most: activations go as gradients come
    speed: float  # tokens a second, of all ranks
    days: float


def plan(
    config: HopeConfig,
    *,
    gpus: int = 1,
    sequence: int = 2048,
    batch: int = 8,
    optimizer: str = "adamw",
    shard: int = 1,
    tokens: float | int | None = None,
    utilisation: float | int = 0.4,
    flops: float | int = 989e12,
    recompute: bool = False,
) -> Plan:
    """Plan a run of ``batch`` rows of ``sequence`` tokens a step, of the whole job, in float32.

    ``shard`` ranks hold one model between them. ``tokens`` are read in all (None: 20 a parameter),
    by ``gpus`` of which each computes ``flops`` a second, of which ``utilisation`` (fraction) is
    reached. With ``recompute`` a block keeps no activations and computes them again, which counts
    as operations. The model is built without weights, and its cost is that of small ones of its
    width (``nestling.train.sketch``), so any size can be planned on any machine. Not in the memory:
    what an allocator leaves unused, and what the optimizer makes on the way. Raises UserError for
    rows that cannot be shared.
    """
    if gpus < 1 or batch < 1 or sequence < 1:
        raise UserError("give at least one GPU, row and token")
    if batch % gpus or gpus % shard:
        raise UserError(
            f"{batch} rows on {gpus} GPUs, {shard} to a model, cannot be shared equally; "
            "choose multiples"
        )
    if not 0 < utilisation <= 1 or not flops > 0:
        raise UserError("give a utilisation above 0 and up to 1, and more than 0 operations")
    with torch.device("meta"):
        model = HopeForCausalLM(config)
    rows = batch // gpus
    found = cost(config, sequence, recompute=recompute)
    count = sum(p.numel() for p in model.parameters())
    weights = sum(p.nbytes for p in model.parameters())
    per_token = found.flops / sequence
    speed = gpus * flops * utilisation / per_token
    settings = TrainConfig(batch_size=rows, sequence_length=sequence)
    states = round(rows * found.state)
    parts = {
        "weights": weights // shard + (0 if shard == 1 else largest(model)),
        "optimizer": remembered(optimizer_of(model, settings, optimizer)) // shard,
    }
    gradients = weights // shard
    step = max(round(rows * found.held + found.begun / shard), gradients + states)
    return Plan(
        parameters=count,
        flops=per_token,
        **parts,
        gradients=gradients,
        activations=round(rows * found.held) - states,
        states=states,
        memory=sum(parts.values()) + step,
        speed=speed,
        days=(tokens or TOKENS_A_PARAMETER * count) / speed / 86400,
    )


def largest(model: HopeForCausalLM) -> int:
    """Bytes of a block's weights and of the ends, which are whole while they are computed."""
    blocks = [sum(p.nbytes for p in block.parameters()) for block in model.body.each()]
    return max(blocks) + sum(p.nbytes for p in model.parameters()) - sum(blocks)


def remembered(optimizer: Leveled) -> int:
    """Bytes that an optimizer keeps, what waits for the writes of slow levels with it."""
    inner: Any = optimizer.inner
    total = 0
    for group in optimizer.param_groups:
        slow = steps_of(group.get("period", 0), optimizer.tokens_per_step) > 1
        beside = slow + (group.get("share") is not None)
        for p in group["params"]:
            total += _of(inner, p, group) + beside * p.nbytes
    return total


def _of(inner: Any, parameter: Tensor, group: dict[str, Any]) -> int:
    if isinstance(inner, Ruled):
        rule = inner.rule(group)
        return sum(x.nbytes for x in rule.start(parameter[None]))
    parts = [part for part in getattr(inner, "parts", ()) if part != "step"]
    return len(parts) * parameter.nbytes
