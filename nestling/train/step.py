"""The loss of one batch, with the memory of its rows carried along."""

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
    """Autocast of matrix products to bfloat16, or nothing for float32."""
    if name == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def read_batch(
    model: "nn.Module | Divided", batch: Batch, cache: MemoryCache | None = None
) -> tuple[Float[Tensor, "B T V"], MemoryCache]:
    """Logits of a batch read after what ``cache`` remembers, and a new cache.

    ``model`` is a HopeForCausalLM, DistributedDataParallel around one, or one that is divided. The
    cache that is given stays as it was, so that a step can be taken back.
    """
    device = next(model.parameters()).device
    # flags stay where the batch was made: the model looks at them before it moves them, and on a
    # device that would be a wait for it
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
    """Cross-entropy in nats of labels that are shifted already; 0 where there is none."""
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
