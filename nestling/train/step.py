"""The forward pass and loss of one batch, with the memory of its rows carried along."""

import contextlib
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from nestling.data import IGNORED, Batch
from nestling.models.cache import MemoryCache

if TYPE_CHECKING:
    from nestling.train.sharding import Divided


def precision(device: torch.device, name: str) -> contextlib.AbstractContextManager[Any]:
    """Autocast to bfloat16 for matrix products, or nothing for float32."""
    if name == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def read_batch(
    model: "nn.Module | Divided", batch: Batch, cache: MemoryCache | None = None
) -> tuple[Float[Tensor, "B T V"], MemoryCache]:
    """The logits of a batch read after ``cache``, and the new cache.

    ``model`` is a HopeForCausalLM, a DistributedDataParallel around one, or a sharded one. The
    given cache is not changed, so that a step can be undone.
    """
    device = next(model.parameters()).device
    # flags stay on the device of the batch: the model checks their values before moving them, which
    # would wait for an accelerator
    output = model(
        input_ids=batch.input_ids.to(device, non_blocking=True),
        attention_mask=None if bool(batch.mask.all()) else batch.mask,
        reset=batch.reset if bool(batch.reset.any()) else None,
        past_key_values=None if cache is None else cache.fork(),
        use_cache=True,
    )
    return output.logits, output.past_key_values


def token_losses(
    logits: Float[Tensor, "B T V"], labels: Int[Tensor, "B T"]
) -> Float[Tensor, "B T"]:
    """The cross-entropy (nats) of labels that are already shifted; 0 where there is no label."""
    flat = functional.cross_entropy(
        logits.float().flatten(0, 1),
        labels.to(logits.device).flatten(),
        ignore_index=IGNORED,
        reduction="none",
    )
    return flat.view(labels.shape)


def targets(batch: Batch) -> int:
    """The number of labelled positions in a batch."""
    return int((batch.labels != IGNORED).sum())
