"""GGUF files (llama.cpp), loaded through transformers: parsed once, quietly, dequantized."""

import contextlib
import importlib
from collections.abc import Generator
from functools import cache
from pathlib import Path
from typing import Any

from nestling.core.error import UserError


def needs_gguf(place: Path) -> None:
    """Raise UserError unless the packages that read GGUF files are installed."""
    try:
        import accelerate  # noqa: F401
        import gguf  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"reading {place} needs more packages: pip install 'nestling[gguf]'"
        ) from error


@contextlib.contextmanager
def parsed_once() -> Generator[None]:
    """Within this context a file is parsed once, without a progress bar.

    transformers parses it for the configuration, the weights and the tokenizer, which takes most
    of the loading time, and shows a bar that no setting disables.
    """
    reading: Any = importlib.import_module("transformers.modeling_gguf_pytorch_utils")
    package: Any = importlib.import_module("gguf")
    parser, drawn = package.GGUFReader, reading.tqdm
    package.GGUFReader, reading.tqdm = cache(parser), lambda tensors, **_: tensors
    try:
        yield
    finally:
        package.GGUFReader, reading.tqdm = parser, drawn


def dequantized(model: Any) -> Any:
    """The same weights in a model not marked as quantized, so that it can be saved."""
    values = model.config.to_dict()
    values.pop("quantization_config", None)
    plain = type(model)(type(model.config)(**values))
    plain.load_state_dict(model.state_dict())
    return plain.to(model.dtype)
