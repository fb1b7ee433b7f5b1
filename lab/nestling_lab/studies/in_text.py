"""Recall sequences in the midst of real text, for memories that are rarely reset."""

from typing import Any

import torch
from torch import Tensor

from nestling.data import IGNORED, Batch
from nestling.evals.questions import APART
from nestling.tasks import TokenTask


class InText:
    """Rows of a continuing text, each batch with one recall sequence inserted.

    ::

        text ... | a sequence of the task | ... text      one batch, ``length`` tokens of each row

    The place of the sequence is random in every batch. A memory continues for a number of batches
    drawn from ``spans``; then all rows start elsewhere in the text with an empty memory. The labels
    are the answers, and the next token of the text at one position in ``thin``, which teaches
    reading without outweighing the answers. The ids of text tokens come after those
    of the task.
    """

    def __init__(
        self,
        task: TokenTask,
        text: Tensor,  # token ids
        *,
        batch_size: int,
        length: int,
        spans: tuple[int, ...],
        thin: int,
        seed: int,
    ):
        self.task, self.text = task, text.long() + task.vocab_size
        self.shape, self.spans, self.thin, self.seed = (batch_size, length), spans, thin, seed
        self.batches = self.left = 0
        self.places = torch.zeros(batch_size, dtype=torch.long)

    def __iter__(self) -> "InText":
        """The loader itself; iteration continues at the current position."""
        return self

    def __next__(self) -> Batch:
        """The next batch; never raises StopIteration."""
        self.batches += 1
        generator = torch.Generator().manual_seed(self.seed * APART + self.batches)
        fresh = self.left == 0
        if fresh:
            self.left = self.spans[self._draw(len(self.spans), generator)]
            self._start(generator)
        self.left -= 1
        ids, labels = self._mixed(generator)
        reset = torch.zeros_like(ids, dtype=torch.bool)
        reset[:, 0] = fresh
        return Batch(ids, labels, reset, torch.ones_like(reset))

    def _draw(self, count: int, generator: torch.Generator) -> int:
        return int(torch.randint(count, (), generator=generator))

    def _start(self, generator: torch.Generator) -> None:
        rows, length = self.shape
        last = len(self.text) - length * max(self.spans)
        self.places = torch.randint(last, (rows,), generator=generator)

    def _mixed(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Token ids and labels, [B, length] both."""
        rows, length = self.shape
        told = self.task.examples(self.seed * APART + self.batches, rows)
        among = length - told.input_ids.shape[1]  # tokens of text
        begin = self._draw(among + 1, generator)
        # one more token, the label of the last
        words = self.text[self.places[:, None] + torch.arange(among + 1)]
        self.places = self.places + among
        asked = torch.rand(rows, among, generator=generator) < 1 / self.thin
        # the token after the text, before the sequence, does not belong to the text
        asked[:, begin - 1 : begin] = False
        following = torch.where(asked, words[:, 1:], IGNORED)
        words = words[:, :among]
        parts = [(words, following), tuple(told), (words, following)]
        spans = [slice(0, begin), slice(None), slice(begin, None)]
        ids, labels = (
            torch.cat([part[which][:, span] for part, span in zip(parts, spans, strict=True)], 1)
            for which in (0, 1)
        )
        return ids, labels

    def state_dict(self) -> dict[str, Any]:
        """The exact position."""
        return {"batches": self.batches, "left": self.left, "places": self.places.tolist()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a saved position."""
        self.batches, self.left = state["batches"], state["left"]
        self.places = torch.tensor(state["places"])
