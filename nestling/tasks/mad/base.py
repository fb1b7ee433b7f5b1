"""What the tasks of MAD share."""

from dataclasses import dataclass

from nestling.core.error import UserError
from nestling.tasks.task import TokenTask

FEWER = (6400, 3200, 1600, 800)  # rows to train on


class Mad(TokenTask):
    """A task of MAD: shapes and difficulties are those of the published configurations.

    The published score is the mean over ``difficulties()`` of the best of the training runs with
    learning rates 1e-4, 5e-4, 1e-3 and weight decays 0, 0.1 (width 128, 200 epochs of batches of
    128); measured on 1,280 rows.
    """

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
