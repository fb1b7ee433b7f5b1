"""Language models: a pattern of memory names, presets, and the meeting with Hugging Face."""

from nestling.models.cache import MemoryCache
from nestling.models.config import HopeConfig
from nestling.models.create import configure, create
from nestling.models.hf import HopeForCausalLM
from nestling.models.presets import preset, preset_names

__all__ = [
    "HopeConfig",
    "HopeForCausalLM",
    "MemoryCache",
    "configure",
    "create",
    "preset",
    "preset_names",
]
