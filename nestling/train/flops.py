"""Counts the floating-point operations of a training step."""

import math
import os
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from nestling.core.native import SWITCH
from nestling.data import Batch
from nestling.models.hf import HopeForCausalLM
from nestling.train.step import read_batch, token_losses


def _forward(q: Any, k: Any, v: Any, *rest: Any, **options: Any) -> int:
    return 2 * math.prod(q[:3]) * k[2] * (q[3] + v[3])  # q k^T, and its product with v


def _backward(grad: Any, q: Any, k: Any, v: Any, *rest: Any, **options: Any) -> int:
    return 2 * math.prod(q[:3]) * k[2] * (3 * q[3] + 2 * v[3])  # scores again, and five products


# torch's CPU attention, which its own counter does not cover; heads may share keys
ON_CPU = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _forward,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _backward,
}


def training_flops(model: HopeForCausalLM, batch: Batch) -> int:
    """Count the operations in matrix products of one forward and backward pass, with torch.

    A product of [M, K] and [K, N] counts 2 M K N. Elementwise work (gates, norms, decays) and the
    optimizer step are not counted. Our compiled code, whose products torch cannot see, is switched
    off for the count. Gradients are left at None.
    """
    counter = FlopCounterMode(display=False, custom_mapping=ON_CPU)
    with _in_torch(), counter:
        logits, _ = read_batch(model, batch)
        token_losses(logits, batch.labels).sum().backward()
    model.zero_grad(set_to_none=True)
    return int(counter.get_total_flops())


def flops_per_token(model: HopeForCausalLM, *, length: int = 256) -> float:
    """``training_flops`` per token, for one row of ``length`` tokens with an empty memory."""
    ids = torch.arange(length)[None] % model.config.vocab_size
    mask = torch.ones_like(ids, dtype=torch.bool)
    reset = torch.zeros_like(mask)
    reset[:, 0] = True
    return training_flops(model, Batch(ids, ids, reset, mask)) / length


@contextmanager
def _in_torch() -> Generator[None]:
    before = os.environ.get(SWITCH)
    os.environ[SWITCH] = "0"
    try:
        yield
    finally:
        if before is None:
            del os.environ[SWITCH]
        else:
            os.environ[SWITCH] = before
