"""Text that a model writes itself, to be held to it later."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from nestling.continual.text import Text
from nestling.models.functional import FunctionalModel

Weights = Mapping[str, Tensor]
Rows = Int[Tensor, "N L"]


@torch.no_grad()
def written_by(
    reader: FunctionalModel, text: Text, weights: Weights, rows: int, length: int, seed: int
) -> Rows:
    """Sequences drawn from a model, from the start of a document on."""
    device = reader.model.device
    if rows == 0:
        return torch.zeros(0, length, dtype=torch.long, device=device)
    first = text.first_token(reader.model.config)
    given = torch.full((rows, 1), first, device=device)
    more: dict[str, Any] = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        out = reader.generate(
            weights, given, max_new_tokens=length - 1, min_new_tokens=length - 1, **more
        )
    return torch.cat([given, out], dim=1)
