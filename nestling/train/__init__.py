"""Training: one run, resumable, and the figures taken from the model it leaves."""

from nestling.train.config import TrainConfig, train_config
from nestling.train.evaluate import Bucket, Evaluation, evaluate, held_out_batches
from nestling.train.loop import train
from nestling.train.run import NotFinite, Run, optimizer_of

__all__ = [
    "Bucket",
    "Evaluation",
    "NotFinite",
    "Run",
    "TrainConfig",
    "evaluate",
    "held_out_batches",
    "optimizer_of",
    "train",
    "train_config",
]
