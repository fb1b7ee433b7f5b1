"""The published protocol for training a model on a task, as numbers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """The sweep, the length of training, and the figures that count.

    One model is trained from scratch for every combination of learning rate and weight decay, in
    epochs over the ``train_examples`` rows of the task; the score is that of the best one.
    """

    source: str  # where the protocol is published
    epochs: int  # passes over the rows, at most
    batch_size: int  # rows in a step; the last step of a pass may have fewer
    learning_rates: tuple[float, ...]  # peak rates, of the update direction
    weight_decays: tuple[float, ...] = (0.0,)  # fractions of the rate
    betas: tuple[float, float] = (0.9, 0.999)  # AdamW: fractions kept each step
    schedule: Literal["cosine", "constant"] = "constant"
    lowest_rate: float = 0.0  # final rate of a cosine schedule, of the update direction
    rows: int = 1000  # test rows per configuration
    # fields of the configuration that change only what is measured; one training serves all values
    measured: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    enough: float = 1.0  # training ends after a pass with this mean test score
    keep: Literal["last", "best"] = "last"  # which pass is reported
