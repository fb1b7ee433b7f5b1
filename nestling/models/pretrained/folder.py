"""Models prepared for continual learning: model, tokenizer, and the parameters of each level."""

import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from nestling.core.device import find_device
from nestling.core.error import UserError
from nestling.core.result import write_json
from nestling.memories.mlp import MLP
from nestling.models.config import HopeConfig
from nestling.models.folder import load_model, no_bars
from nestling.models.hf import HopeForCausalLM
from nestling.models.pretrained.adapter import base_of, holds_adapter, load_merged, plain
from nestling.models.pretrained.base import Base, load_base
from nestling.models.pretrained.level import LevelSpec, in_order
from nestling.models.pretrained.stacking import shared_out, stack

FILE = "levels.json"  # beside the model's own files
PLAIN, FORMAT = 1, 2  # 2: a level is reset, which an older nestling would ignore
NO_LEVELS = "this model has no levels yet; name some, as in --levels 64,512"


class Stacked(NamedTuple):
    """A model with its parameters divided into levels, slow to fast."""

    model: Any  # HopeForCausalLM, or a causal language model of transformers
    tokenizer: Any | None
    levels: tuple[LevelSpec, ...]
    parameters: tuple[tuple[str, ...], ...]  # names, for each level
    variant: str = "partition"


def stack_model(
    model: nn.Module,
    tokenizer: Any | None,
    levels: Sequence[LevelSpec] | None = None,
    variant: str = "partition",
) -> Stacked:
    """Divide a model into levels.

    In a model of this library, the CMS levels are used, one for each period; ``levels`` then
    replaces how they are written, slow to fast, and None keeps their own periods and shares. A
    model without CMS levels has its feed-forward networks divided. Any other model is stacked as
    described in ``nestling.models.pretrained.stacking.stack``. A model with PEFT adapters is copied
    with these merged.
    """
    model = plain(model)
    if isinstance(model, HopeForCausalLM):
        return _of_hope(model, tokenizer, levels)
    if levels is None:
        raise UserError(NO_LEVELS)
    ordered = in_order(tuple(levels))
    names = stack(model, _type(model), ordered, variant)
    return Stacked(model, tokenizer, ordered, tuple(map(tuple, names)), variant)


def _type(model: Any) -> str:
    return model.config.model_type


def _of_hope(
    model: HopeForCausalLM, tokenizer: Any | None, levels: Sequence[LevelSpec] | None
) -> Stacked:
    groups: dict[int, list[str]] = {}
    shares = model.parameter_shares()
    for name, period in model.parameter_periods().items():
        if period:
            groups.setdefault(period, []).append(name)
    if not groups:
        return _of_feed_forward(model, tokenizer, levels)
    periods = sorted(groups, reverse=True)
    own = [LevelSpec(period=p, share=shares.get(groups[p][0])) for p in periods]
    chosen = own if levels is None else list(levels)
    if len(chosen) != len(periods):
        raise UserError(f"the model has {len(periods)} CMS levels, but {len(chosen)} are given")
    ordered = in_order(tuple(chosen))
    return Stacked(model, tokenizer, ordered, tuple(tuple(groups[p]) for p in periods), "cms")


def _of_feed_forward(
    model: HopeForCausalLM, tokenizer: Any | None, levels: Sequence[LevelSpec] | None
) -> Stacked:
    """Divide the feed-forward networks of a model of this library without CMS levels."""
    blocks = [
        f"backbone.blocks.{index}.memory"
        for index, block in enumerate(model.backbone.each())
        if isinstance(block.memory, MLP)
    ]
    if not blocks:
        raise UserError(
            "this model has neither CMS levels nor feed-forward networks that could be levels"
        )
    if levels is None:
        raise UserError(NO_LEVELS)
    ordered = in_order(tuple(levels))
    names = shared_out(model, blocks, ordered)
    return Stacked(model, tokenizer, ordered, tuple(map(tuple, names)), "partition")


def save_stacked(base: Base, levels: Sequence[LevelSpec], variant: str, directory: Path) -> Stacked:
    """Save the base in the format of transformers, with its levels, then divide it."""
    ordered = in_order(tuple(levels))
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with no_bars(), tempfile.TemporaryDirectory(dir=directory, prefix=".model.") as draft:
            base.model.to(getattr(torch, base.dtype)).save_pretrained(draft)
            base.model.to(torch.float32)
            if base.tokenizer is not None:
                base.tokenizer.save_pretrained(draft)
            whole = stack_model(base.model, base.tokenizer, ordered, variant)
            for file in Path(draft).iterdir():
                os.replace(file, directory / file.name)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"cannot save the model in {directory} ({reason})") from error
    form = PLAIN if all(level.share is None for level in ordered) else FORMAT
    record = {"format": form, "variant": variant, "levels": [s.record() for s in ordered]}
    write_json(directory / FILE, record)
    return whole


def load_stacked(
    source: str | Path,
    levels: Sequence[LevelSpec] | None = None,
    variant: str = "partition",
    device: str = "cpu",
) -> Stacked:
    """Load a model ready to learn: an adapted one, one of ours, or any other with ``levels``.

    ``levels`` replaces those named in the folder; a folder with just an adapter uses those of its
    base, unless it names its own.
    """
    path = Path(source)
    home = Path(base_of(path)) if holds_adapter(path) else path
    if _is_hope(home):
        model, tokenizer = _hope(path, device)
        return stack_model(model, tokenizer, levels)
    if levels is None:
        named = next((place / FILE for place in (path, home) if (place / FILE).exists()), None)
        levels, variant = (None, variant) if named is None else _read(named)
    base = load_base(source)
    return stack_model(base.model.to(find_device(device)), base.tokenizer, levels, variant)


def _hope(path: Path, device: str) -> tuple[Any, Any]:
    """Model and tokenizer of a folder of this library, or of an adapter of one."""
    if not holds_adapter(path):
        return load_model(path, device)
    model, (_, tokenizer) = load_merged(path, lambda base: load_model(Path(base), device))
    return model, tokenizer


def _is_hope(directory: Path) -> bool:
    try:
        text = (directory / "config.json").read_text(encoding="utf-8")
        return json.loads(text).get("model_type") == HopeConfig.model_type
    except (OSError, ValueError, AttributeError):
        return False  # loading the model will report what is wrong


def _read(path: Path) -> tuple[tuple[LevelSpec, ...], str]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["format"] > FORMAT:
            raise UserError(f"{path} was written by a newer nestling; upgrade this one")
        return tuple(LevelSpec.of(level) for level in record["levels"]), record["variant"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} cannot be read ({error}); adapt the model again") from error
