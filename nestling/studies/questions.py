"""A task as an endless source of batches, so that the training loop can read it."""

from typing import Any

import torch
from torch import Tensor

from nestling.data import Batch
from nestling.tasks import UNSEEN, Examples, TokenTask

APART = 1_000_003  # seeds of one run's batches; another run's begin beyond them


def as_batch(examples: Examples) -> Batch:
    """Every row is a document of its own, without fill."""
    reset = torch.zeros_like(examples.input_ids, dtype=torch.bool)
    reset[:, 0] = True
    return Batch(examples.input_ids, examples.labels, reset, torch.ones_like(reset))


class Questions:
    """Fresh examples for every batch; the position is the number of batches given."""

    def __init__(self, task: TokenTask, *, batch_size: int, seed: int):
        self.task, self.batch_size, self.seed = task, batch_size, seed
        self.batches = 0

    def __iter__(self) -> "Questions":
        """The loader itself: it goes on from where it stands."""
        return self

    def __next__(self) -> Batch:
        """The next batch; there always is one."""
        self.batches += 1
        return as_batch(self.task.examples(self.seed * APART + self.batches, self.batch_size))

    def state_dict(self) -> dict[str, Any]:
        """The exact position."""
        return {"batches": self.batches}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a saved position."""
        self.batches = state["batches"]


def unseen_examples(task: TokenTask, *, seed: int, count: int) -> Examples:
    """Examples of seeds that training never uses."""
    return task.examples(UNSEEN + seed, count)


@torch.no_grad()
def answers(model: Any, input_ids: Tensor, batch_size: int = 64) -> Tensor:
    """The likeliest token after each position, [N, T]; every row is read from a fresh memory."""
    device = next(model.parameters()).device
    parts = [
        model(input_ids=part.to(device), use_cache=False).logits.argmax(-1).cpu()
        for part in input_ids.split(batch_size)
    ]
    return torch.cat(parts)
