"""How a published table trains a model on a task: numbers alone."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """What is tried, how long, and which figures count.

    Of every learning rate with every weight decay one model is trained from fresh weights on the
    task's ``train_examples`` rows, over and over, and the best of them has the score.
    """

    source: str  # where this is written down
    epochs: int  # most passes over the rows
    batch_size: int  # rows of a step; the last of a pass may be smaller
    learning_rates: tuple[float, ...]  # highest rates, of the update direction
    weight_decays: tuple[float, ...] = (0.0,)  # fractions of the rate
    betas: tuple[float, float] = (0.9, 0.999)  # AdamW: fractions kept each step
    schedule: Literal["cosine", "constant"] = "constant"
    lowest_rate: float = 0.0  # where a cosine ends, of the update direction
    rows: int = 1000  # measured, of each configuration
    # fields of the task's configuration that only say what is measured, all of one training
    measured: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    enough: float = 1.0  # mean score of what is measured after a pass, at which training ends
    keep: Literal["last", "best"] = "last"  # the pass whose figures count
