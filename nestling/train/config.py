"""The settings of a training run."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from nestling.core.error import UserError, did_you_mean

ADAMW = "adamw"  # the default optimizer
# settings that records of earlier versions lack, with the values that those versions used
LATER = {"rates_by_role": False, "layer_rate": 1.0, "recompute": False, "peak_flops": None}


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The settings of a run, apart from the model and the text."""

    steps: int = 1000  # optimizer steps of the whole run
    batch_size: int = 4  # streams read side by side
    sequence_length: int = 256  # tokens per stream and batch; back-propagation is cut between them
    accumulation: int = 1  # batches per optimizer step
    learning_rate: float = 3e-3  # peak rate, of the update direction
    final_rate: float = 0.1  # final rate, fraction of the peak
    warmup: float = 0.05  # fraction of the steps with a rising rate
    schedule: Literal["cosine", "wsd", "constant"] = "cosine"  # wsd: warm-up, stable, decay
    decay: float = 0.2  # wsd: fraction of the steps with a falling rate
    rates_by_role: bool = True  # apply the learning-rate factors that memories declare
    layer_rate: float = 1.0  # of the layers, times the rate of embedding and head
    weight_decay: float = 0.1  # of the matrices, fraction of the rate
    beta1: float = 0.9  # AdamW: fraction of the mean of gradients kept each step
    beta2: float = 0.95  # AdamW: fraction of the mean of squares kept each step
    max_norm: float | None = 1.0  # clip the gradient of each level to this norm; None: never
    precision: Literal["float32", "bfloat16"] = "float32"  # of matrix products (autocast)
    recompute: bool = False  # True: recompute activations in the backward pass to save memory
    carry: bool = True  # the memory of a long document continues from batch to batch
    seed: int = 0  # of the loader's order and of torch
    evaluate_every: int = 0  # steps between evaluations on held-out text; 0: at the end only
    evaluate_tokens: int = 16384  # approximate held-out tokens per evaluation; 0: all
    save_every: int = 100  # steps between checkpoints; 0: at the end only
    keep: int = 2  # number of newest checkpoints to keep
    peak_flops: float | None = None  # operations per second of a device; None: measure

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "sequence_length", "accumulation", "keep"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; give at least 1")
        for name in ("final_rate", "warmup", "decay"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name} is {getattr(self, name)}; give a fraction from 0 to 1")
        if self.peak_flops is not None and not self.peak_flops > 0:
            raise UserError(f"peak_flops is {self.peak_flops}; give more than 0")
        for name in ("learning_rate", "layer_rate"):
            if not getattr(self, name) > 0:
                raise UserError(f"{name} is {getattr(self, name)}; give more than 0")

    @property
    def tokens_per_step(self) -> int:
        """Tokens of one stream per optimizer step; converts the periods of levels to steps."""
        return self.sequence_length * self.accumulation


def field_names() -> list[str]:
    """The names of the settings."""
    return [field.name for field in dataclasses.fields(TrainConfig)]


def train_config(settings: Mapping[str, Any]) -> TrainConfig:
    """Build a TrainConfig from names and values.

    Raises UserError for an unknown name or a value of the wrong type.
    """
    kinds = {field.name: field.type for field in dataclasses.fields(TrainConfig)}
    for name, value in settings.items():
        if name not in kinds:
            raise UserError(f"unknown setting {name!r}: {did_you_mean(name, kinds)}")
        _check_kind(name, value, kinds[name])
    return TrainConfig(**{n: _whole(v, kinds[n]) for n, v in settings.items()})


def _whole(value: Any, kind: Any) -> Any:
    return float(value) if kind in (float, float | None) and isinstance(value, int) else value


def _check_kind(name: str, value: Any, kind: Any) -> None:
    choices = getattr(kind, "__args__", None)
    if choices and isinstance(choices[0], str):
        if value not in choices:
            raise UserError(f"{name} is {value!r}; choose one of {', '.join(choices)}")
        return
    wanted = float if kind == float | None else kind
    if value is None and kind == float | None:
        return
    allowed = (int, float) if wanted is float else (wanted,)
    if not isinstance(value, allowed) or (isinstance(value, bool) and wanted is not bool):
        raise UserError(f"{name} is {value!r}; give a value of type {wanted.__name__}")
