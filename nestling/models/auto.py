"""Register a class with transformers: in its Auto classes and its tables of names."""

from typing import TYPE_CHECKING

from nestling.models.config import HopeConfig

if TYPE_CHECKING:
    from nestling.models.base import HopePreTrainedModel


def announce(kind: "type[HopePreTrainedModel]", auto: str, names: str) -> None:
    """Register ``kind`` with the Auto class of this name, and add it to a table.

    The tables matter beyond lookup: with label smoothing, Trainer shifts labels only for models in
    the causal table, and pipelines call models in no table unsupported.
    """
    # importing it registers every model, so it has to wait until this one exists
    from transformers.models.auto import modeling_auto

    getattr(modeling_auto, auto).register(HopeConfig, kind, exist_ok=True)
    getattr(modeling_auto, names)[HopeConfig.model_type] = kind.__name__
