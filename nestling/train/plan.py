"""Estimates what a training run will take: parameters, operations, memory, days."""

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
    """An estimate, for one rank unless stated otherwise; memory in bytes."""

    parameters: int  # of the model
    flops: float  # per token, forward and backward, in matrix products
    weights: int
    gradients: int
    optimizer: int
    activations: int  # peak of activations and other temporaries, including the logits
    states: int  # of the rows, kept between batches
    memory: int  # peak; activations are freed while gradients are made
    speed: float  # tokens per second, of all ranks
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
    """Plan a run of ``batch`` rows of ``sequence`` tokens per step, over all ranks, in float32.

    ``shard`` ranks hold one model together. The run reads ``tokens`` in all (None: 20 per
    parameter) on ``gpus`` GPUs of ``flops`` operations per second each, of which the fraction
    ``utilisation`` is reached. With ``recompute`` a block recomputes its activations, which counts
    as operations. The model is built without weights, and its cost is extrapolated from small
    models of the same width (``nestling.train.sketch``), so any size can be planned on any machine.
    The memory does not include allocator overhead and temporaries of the optimizer. Raises
    UserError for rows that cannot be shared equally.
    """
    if gpus < 1 or batch < 1 or sequence < 1:
        raise UserError(
            f"gpus is {gpus}, batch {batch}, sequence {sequence}; give at least 1 of each"
        )
    if batch % gpus or gpus % shard:
        raise UserError(
            f"{batch} rows cannot be shared equally by {gpus} GPUs with {shard} per model; give a "
            "batch that is a multiple of gpus, and gpus that are a multiple of shard"
        )
    if not 0 < utilisation <= 1 or not flops > 0:
        raise UserError(
            f"utilisation is {utilisation}, flops {flops}; give 0 < utilisation <= 1 and flops > 0"
        )
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
    """Bytes of the largest block and of embedding and head, which are whole while in use."""
    blocks = [sum(p.nbytes for p in block.parameters()) for block in model.body.each()]
    return max(blocks) + sum(p.nbytes for p in model.parameters()) - sum(blocks)


def remembered(optimizer: Leveled) -> int:
    """Bytes of optimizer state, including gradients that wait for writes of slow levels."""
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
