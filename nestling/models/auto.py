"""Makes transformers know a class: by its Auto classes and in its tables of names."""

from typing import TYPE_CHECKING

from nestling.models.config import HopeConfig

if TYPE_CHECKING:
    from nestling.models.base import HopePreTrainedModel


def announce(kind: "type[HopePreTrainedModel]", auto: str, names: str) -> None:
    """Let the class of this name in transformers find ``kind``, and name it in a table.

    Whether a class stands in a table decides over more than finding it: Trainer shifts the labels
    of causal models alone when it smooths them, and a pipeline calls the others unsupported.
    """
    # its import makes every model known, so that it has to wait until this one is there
    from transformers.models.auto import modeling_auto

    getattr(modeling_auto, auto).register(HopeConfig, kind, exist_ok=True)
    getattr(modeling_auto, names)[HopeConfig.model_type] = kind.__name__
