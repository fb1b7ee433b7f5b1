"""A model with other weights in some places, written as transformers reads it."""

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from nestling.core.error import UserError
from nestling.models.folder import no_bars
from nestling.models.pretrained.folder import Stacked


def save_with(base: Stacked, weights: Mapping[str, Tensor], directory: Path) -> None:
    """Write ``base`` with ``weights`` in the place of its own; ``base`` stays as it is.

    Only a model without added networks can be read by transformers: others raise UserError.
    """
    if base.variant in ("chain", "independent"):
        raise UserError(
            f"a {base.variant} has networks that transformers does not know; "
            "only partitions and models of this library can be exported"
        )
    own = dict(base.model.named_parameters())
    kept = {name: own[name].detach().clone() for name in weights}
    try:
        with torch.no_grad():
            for name, value in weights.items():
                own[name].copy_(value)
        directory.mkdir(parents=True, exist_ok=True)
        with no_bars(), tempfile.TemporaryDirectory(dir=directory, prefix=".model.") as draft:
            base.model.save_pretrained(draft)
            if base.tokenizer is not None:
                base.tokenizer.save_pretrained(draft)
            for file in Path(draft).iterdir():
                os.replace(file, directory / file.name)
    except OSError as error:
        raise UserError(f"cannot save the model in {directory} ({error.strerror})") from error
    finally:
        with torch.no_grad():
            for name, value in kept.items():
                own[name].copy_(value)
