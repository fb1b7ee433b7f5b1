"""Questions in the midst of real text: what a memory that never starts afresh has to bear."""

from typing import Any

import torch
from torch import Tensor

from nestling.data import IGNORED, Batch
from nestling.evals.questions import APART
from nestling.tasks import TokenTask


class InText:
    """Rows that read on in a text, and in every batch are told something and asked for it.

    ::

        text ... | a sequence of the task | ... text      one batch, ``length`` tokens of each row

    The place of the sequence is drawn anew for every batch. A memory goes on for as many batches
    as one of ``spans``, drawn at random; then all rows start afresh elsewhere in the text. Labels
    are the answers, and of the text the next token at one position in ``thin``: enough to learn to
    read it, and not so many that the answers are lost among them. The text's tokens come after the
    task's.
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
        """The loader itself: it goes on from where it stands."""
        return self

    def __next__(self) -> Batch:
        """The next batch; there always is one."""
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
        # one token more, the label of the last
        words = self.text[self.places[:, None] + torch.arange(among + 1)]
        self.places = self.places + among
        asked = torch.rand(rows, among, generator=generator) < 1 / self.thin
        # what follows the text before the task's sequence is not a word of the text
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
