"""Files of llama.cpp (GGUF), as transformers reads them: once, without a bar, as plain weights."""

import contextlib
import importlib
from collections.abc import Generator
from functools import cache
from pathlib import Path
from typing import Any

from nestling.core.error import UserError


def needs_gguf(place: Path) -> None:
    """Without the packages that read ``place`` raises UserError."""
    try:
        import accelerate  # noqa: F401
        import gguf  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"reading {place} needs two more packages: pip install 'nestling[gguf]'"
        ) from error


@contextlib.contextmanager
def parsed_once() -> Generator[None]:
    """A file is parsed once here; no bar is drawn.

    transformers parses it anew for the configuration, the weights and the tokenizer, which is most
    of the time a load takes; and it draws a bar that none of its settings stops.
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
    """The same weights in a model that is not marked as quantized: that one cannot be saved."""
    values = model.config.to_dict()
    values.pop("quantization_config", None)
    plain = type(model)(type(model.config)(**values))
    plain.load_state_dict(model.state_dict())
    return plain.to(model.dtype)
