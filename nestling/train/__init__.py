"""Training: one resumable run, and the figures of the trained model."""

from nestling.train.config import TrainConfig, train_config
from nestling.train.evaluate import Bucket, Evaluation, evaluate, held_out_batches
from nestling.train.job import Job, make_job, run_job
from nestling.train.loop import train
from nestling.train.run import Batches, NotFinite, Run, optimizer_of

__all__ = [
    "Batches",
    "Bucket",
    "Evaluation",
    "Job",
    "NotFinite",
    "Run",
    "TrainConfig",
    "evaluate",
    "held_out_batches",
    "make_job",
    "optimizer_of",
    "run_job",
    "train",
    "train_config",
]
