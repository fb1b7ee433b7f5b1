"""The base class of the MAD tasks, and their score."""

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from nestling.core.error import UserError
from nestling.tasks.protocol import Protocol
from nestling.tasks.task import IGNORED, TokenTask

FEWER = (6400, 3200, 1600, 800)  # smaller training sets, rows
TOGETHER = 128  # rows in a batch of the score


class Mad(TokenTask):
    """A task of MAD, with the shapes and difficulties of the published configurations.

    ``score`` is the published accuracy: class-averaged accuracy over batches of 128 rows, averaged
    over the batches. The share of right positions is reported beside it. The MAD score of a model
    is the mean over ``difficulties()`` of the best of the published training runs.
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
        length: int = 128  # tokens of a row, as counted in the published configurations
        train_examples: int = 12_800  # rows to train on

        def __post_init__(self) -> None:
            if min(self.vocab_size, self.length, self.train_examples) < 4:
                raise UserError(
                    f"vocab_size is {self.vocab_size}, length {self.length}, train_examples "
                    f"{self.train_examples}; a task of MAD needs at least 4 of each"
                )

    @property
    def vocab_size(self) -> int:
        """The number of tokens, including special ones."""
        return self.config.vocab_size

    def score(self, answers: Int[Tensor, "N T"], labels: Int[Tensor, "N T"]) -> float:
        """Class-averaged accuracy over batches of 128 rows, averaged over the batches.

        A class that is neither a label nor an answer does not count; one that occurs only among
        the answers has an accuracy of 0.

        Source: mad-lab, which averages the accuracy of torchmetrics over batches of 128.
        """
        parts = zip(answers.split(TOGETHER), labels.split(TOGETHER), strict=True)
        found = [(by_class(*part, self.vocab_size), len(part[0])) for part in parts]
        return sum(share * rows for share, rows in found) / len(labels)


def by_class(answers: Int[Tensor, "N T"], labels: Int[Tensor, "N T"], classes: int) -> float:
    """Class-averaged accuracy, over the classes that occur among labels or answers.

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
