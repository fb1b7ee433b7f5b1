"""The loss of one batch, with the memory of its rows carried along."""

import contextlib
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from nestling.data import IGNORED, Batch


def precision(device: torch.device, name: str) -> contextlib.AbstractContextManager[Any]:
    """Autocast of matrix products to bfloat16, or nothing for float32."""
    if name == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def read_batch(model: nn.Module, batch: Batch, cache: Any = None) -> tuple[Tensor, Any]:
    """Logits [B, T, V] of a batch read after what ``cache`` remembers, and the new cache.

    A memory is handed over detached: gradients end at the batch (truncated back-propagation).
    """
    device = next(model.parameters()).device
    output = model(
        input_ids=batch.input_ids.to(device),
        attention_mask=batch.mask.to(device),
        reset=batch.reset.to(device),
        past_key_values=cache,
        use_cache=True,
    )
    return output.logits, output.past_key_values


def token_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy [B, T] in nats of labels that are shifted already; 0 where there is none."""
    flat = functional.cross_entropy(
        logits.float().flatten(0, 1),
        labels.to(logits.device).flatten(),
        ignore_index=IGNORED,
        reduction="none",
    )
    return flat.view(labels.shape)


def targets(batch: Batch) -> int:
    """The number of positions of a batch that have a label."""
    return int((batch.labels != IGNORED).sum())
