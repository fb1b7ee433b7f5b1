"""What the tasks of MAD share."""

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from nestling.core.error import UserError
from nestling.tasks.protocol import Protocol
from nestling.tasks.task import IGNORED, TokenTask

FEWER = (6400, 3200, 1600, 800)  # rows to train on
TOGETHER = 128  # rows whose classes are counted together


class Mad(TokenTask):
    """A task of MAD: shapes and difficulties are those of the published configurations.

    ``score`` is the published accuracy: the mean over the classes of the share of each that is
    right, of 128 rows together, and of those the mean. The share of positions stands beside it.
    The score of MAD is the mean over ``difficulties()`` of the best of the published training runs.
    """

    pooled = True
    protocol = Protocol(
        source="mad-lab, MADConfig and make_benchmark_mad_configs",
        epochs=200,
        batch_size=128,
        learning_rates=(1e-4, 5e-4, 1e-3),
        weight_decays=(0.0, 0.1),
        schedule="cosine",
        lowest_rate=1e-6,
        rows=1280,
        enough=0.999,
    )
    source = "MAD, arXiv 2403.17844, and the configurations of mad-lab"

    @dataclass(frozen=True, kw_only=True)
    class Config(TokenTask.Config):
        """Sizes of the task."""

        vocab_size: int = 16  # tokens, special ones included
        length: int = 128  # tokens of a row as the configurations count them
        train_examples: int = 12_800  # rows to train on

        def __post_init__(self) -> None:
            if min(self.vocab_size, self.length, self.train_examples) < 4:
                raise UserError("a task of MAD needs vocab_size, length and train_examples >= 4")

    @property
    def vocab_size(self) -> int:
        """All tokens, special ones included."""
        return self.config.vocab_size

    def score(self, answers: Int[Tensor, "N T"], labels: Int[Tensor, "N T"]) -> float:
        """The mean over the classes of the share of each that is right, of 128 rows together.

        A class that is neither a label nor an answer does not count; one that is only answered
        has a share of 0.

        Source: mad-lab, whose accuracy is that of torchmetrics, averaged over batches of 128.
        """
        parts = zip(answers.split(TOGETHER), labels.split(TOGETHER), strict=True)
        found = [(by_class(*part, self.vocab_size), len(part[0])) for part in parts]
        return sum(share * rows for share, rows in found) / len(labels)


def by_class(answers: Int[Tensor, "N T"], labels: Int[Tensor, "N T"], classes: int) -> float:
    """The mean over the classes, as labels and answers have them, of the share that is right.

    >>> by_class(torch.tensor([[0, 0, 0, 2]]), torch.tensor([[0, 0, 1, -100]]), 4)
    0.5
    """
    scored = labels != IGNORED
    of, said = labels[scored], answers[scored]
    total, told, right = (
        torch.bincount(part, minlength=classes).double() for part in (of, said, of[of == said])
    )
    known = total + told > 0
    return (right / total.clamp(min=1))[known].mean().item()
