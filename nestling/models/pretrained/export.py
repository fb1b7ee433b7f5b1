"""Save a model with some of its weights replaced, in the format of transformers."""

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nestling.core.error import UserError
from nestling.models.folder import no_bars
from nestling.models.pretrained.fold import ADDED, folded
from nestling.models.pretrained.folder import Stacked


def save_with(base: Stacked, weights: Mapping[str, Tensor], directory: Path) -> None:
    """Save ``base`` with ``weights`` instead of its own; ``base`` itself is not changed.

    Networks added for levels are folded into architectures that transformers knows; where that is
    impossible, as for a chain whose faster levels have been written, UserError says why
    (``nestling.models.pretrained.fold.folded``).
    """
    if base.variant in ADDED:
        _save(folded(base, weights), base.tokenizer, directory)
        return
    own = dict(base.model.named_parameters())
    kept = {name: own[name].detach().clone() for name in weights}
    try:
        with torch.no_grad():
            for name, value in weights.items():
                own[name].copy_(value)
        _save(base.model, base.tokenizer, directory)
    finally:
        with torch.no_grad():
            for name, value in kept.items():
                own[name].copy_(value)


def _save(model: Any, tokenizer: Any | None, directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with no_bars(), tempfile.TemporaryDirectory(dir=directory, prefix=".model.") as draft:
            model.save_pretrained(draft)
            if tokenizer is not None:
                tokenizer.save_pretrained(draft)
            for file in Path(draft).iterdir():
                os.replace(file, directory / file.name)
    except OSError as error:
        raise UserError(f"cannot save the model in {directory} ({error.strerror})") from error
