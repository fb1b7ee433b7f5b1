"""Fingerprints: of a base model, of a text, of the content of a memory file."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from nestling.models.pretrained import Stacked


def model_digest(base: Stacked) -> str:
    """Sha256 over the weights of a model and over which of them its levels hold.

    Periods and rates are no part of it: they may differ between two readings of one base.
    """
    total = hashlib.sha256(json.dumps([base.variant, base.parameters]).encode())
    for name, tensor in sorted(base.model.state_dict().items()):
        _add(total, name, tensor)
    return total.hexdigest()


def token_digest(ids: Sequence[int]) -> str:
    """Sha256 over token ids."""
    return hashlib.sha256(torch.tensor(ids, dtype=torch.int64).numpy().tobytes()).hexdigest()


def content_digest(about: Mapping[str, Any], tensors: Iterable[tuple[str, Tensor]]) -> str:
    """Sha256 over a record and named tensors, in the order of the names."""
    total = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name, tensor in sorted(tensors, key=lambda pair: pair[0]):
        _add(total, name, tensor)
    return total.hexdigest()


def _add(total: Any, name: str, tensor: Tensor) -> None:
    total.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
    plain = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8)
    total.update(plain.numpy())
