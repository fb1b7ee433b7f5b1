"""Language models: patterns of memories, presets, and the integration with transformers."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nestling.models.cache import MemoryCache
    from nestling.models.classification import (
        HopeForSequenceClassification,
        HopeForTokenClassification,
    )
    from nestling.models.config import HopeConfig
    from nestling.models.factory import configure, create
    from nestling.models.hf import HopeForCausalLM
    from nestling.models.model import HopeModel
    from nestling.models.presets import preset, preset_names

# imported on first use: the presets need no transformers, and the configuration must be
# importable while transformers itself is still being imported (nestling/register.py)
_TABLE = {
    "HopeConfig": "config",
    "HopeForCausalLM": "hf",
    "HopeForSequenceClassification": "classification",
    "HopeForTokenClassification": "classification",
    "HopeModel": "model",
    "MemoryCache": "cache",
    "configure": "factory",
    "create": "factory",
    "preset": "presets",
    "preset_names": "presets",
}

__all__ = [
    "HopeConfig",
    "HopeForCausalLM",
    "HopeForSequenceClassification",
    "HopeForTokenClassification",
    "HopeModel",
    "MemoryCache",
    "configure",
    "create",
    "preset",
    "preset_names",
]


def __getattr__(name: str) -> Any:
    """Import a public name on first use."""
    if name not in _TABLE:
        raise AttributeError(f"module 'nestling.models' has no attribute {name!r}")
    return getattr(importlib.import_module(f"nestling.models.{_TABLE[name]}"), name)
