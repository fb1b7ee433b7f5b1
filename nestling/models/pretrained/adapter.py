"""PEFT adapters: merge a base and its adapter into one plain model."""

import contextlib
import copy
import importlib
import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from nestling.core.error import UserError

CONFIG = "adapter_config.json"
Loaded = TypeVar("Loaded", bound=tuple)
WEIGHTS = ("model*.safetensors", "pytorch_model*.bin", "*.gguf")  # files of a complete model


def holds_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter without its base model."""
    return (folder / CONFIG).is_file() and not any(
        next(folder.glob(pattern), None) for pattern in WEIGHTS
    )


def base_of(folder: Path) -> str:
    """The base model of the adapter in a folder, as its configuration names it."""
    path = folder / CONFIG
    try:
        named = json.loads(path.read_text(encoding="utf-8"))["base_model_name_or_path"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} cannot be read; copy the adapter again") from error
    if not named:
        raise UserError(
            f"{path} has no base_model_name_or_path; write the folder of the base there"
        )
    return str(named)


def load_merged(folder: Path, load: Callable[[str], Loaded]) -> tuple[Any, Loaded]:
    """Load the base of the adapter in a folder, merged with it, and the result of ``load``.

    ``load`` takes the base's name and returns a tuple that starts with the model.
    """
    base = base_of(folder)
    try:
        peft = importlib.import_module("peft")
    except ImportError as error:
        raise UserError(
            f"{folder} contains an adapter and needs peft: pip install 'nestling[continual]'"
        ) from error
    try:
        found = load(base)
    except UserError as error:
        raise UserError(
            f"{folder} is an adapter of {base}, which cannot be loaded ({error}); write the folder "
            f"of the base as base_model_name_or_path into {CONFIG}"
        ) from error
    with _explained(str(folder)), warnings.catch_warnings():
        # weights missing in the file would keep the initial values of an adapter
        warnings.filterwarnings("error", message="Found missing adapter keys")
        return _merged(peft.PeftModel.from_pretrained(found[0], folder)).eval(), found


def plain(model: nn.Module) -> Any:
    """A model without adapters: active ones are merged into a copy; ``model`` is not changed.

    Any other model is returned as is. Weights that no adapter touches are shared with the copy.
    An adapter that cannot be merged raises UserError.
    """
    peft = sys.modules.get("peft")  # imported, if there is such a model
    if peft is None:
        return model
    wrapped = isinstance(model, (peft.PeftModel, peft.PeftMixedModel))
    if not wrapped and not _tuned(model):
        return model
    touched = {id(p) for _, _, part in _tuned(model) for p in part.parameters()}
    shared = {id(p): p for p in model.parameters() if id(p) not in touched}
    with _explained("the model"):
        return _merged(copy.deepcopy(model, shared))


def _merged(model: Any) -> Any:
    """Merge the active adapters of a model in place; returns its base."""
    layers = _tuned(model)
    if not layers:
        raise ValueError("what was trained is not part of its weights")
    off = any(part.disable_adapters for _, _, part in layers)
    if not off and hasattr(model.base_model, "merge_and_unload"):
        return model.base_model.merge_and_unload()
    for parent, name, part in layers:
        setattr(parent, name, _alone(part, merge=not off))
    model = getattr(model, "get_base_model", lambda: model)()
    # transformers marks a model with adapters, and would then save only these
    model._hf_peft_config_loaded = False
    return model


def _alone(part: Any, *, merge: bool) -> nn.Module:
    """The original module of a PEFT layer, with its adapter merged or not."""
    whole = hasattr(part, "unload_and_optionally_merge_module")
    if whole and merge:
        return part.unload_and_optionally_merge_module(True, False, None)
    if merge:
        part.merge()
    return part.original_module if whole else part.get_base_layer()


def _tuned(model: nn.Module) -> list[tuple[nn.Module, str, Any]]:
    """The layers that PEFT has replaced: parent, name, layer."""
    kinds = importlib.import_module("peft.tuners.tuners_utils").BaseTunerLayer
    others = importlib.import_module("peft.utils.other").AuxiliaryTrainingWrapper
    return [
        (parent, name, part)
        for parent in model.modules()
        for name, part in parent.named_children()
        if isinstance(part, (kinds, others))
    ]


@contextlib.contextmanager
def _explained(what: str):
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # peft raises all kinds of errors if it cannot read or merge
        reason = " ".join(str(error).split())[:160]
        raise UserError(
            f"the adapter of {what} cannot be merged into its base ({reason}); merge it with peft"
        ) from error
