"""Fingerprints of a base model, a text, and the content of a memory file."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from nestling.models.pretrained import Stacked


def model_digest(base: Stacked) -> str:
    """The sha256 of a model's weights and of the assignment of weights to levels.

    Periods and rates are not included: two readings of one base may differ in them.
    """
    total = hashlib.sha256(json.dumps([base.variant, base.parameters]).encode())
    for name, tensor in sorted(base.model.state_dict().items()):
        _add(total, name, tensor)
    return total.hexdigest()


def token_digest(ids: Sequence[int]) -> str:
    """The sha256 of token ids."""
    return hashlib.sha256(torch.tensor(ids, dtype=torch.int64).numpy().tobytes()).hexdigest()


def content_digest(about: Mapping[str, Any], tensors: Iterable[tuple[str, Tensor]]) -> str:
    """The sha256 of a record and named tensors, in the order of the names."""
    total = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name, tensor in sorted(tensors, key=lambda pair: pair[0]):
        _add(total, name, tensor)
    return total.hexdigest()


def _add(total: Any, name: str, tensor: Tensor) -> None:
    total.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
    plain = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8)
    total.update(plain.numpy())
