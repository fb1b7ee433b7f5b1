"""Generate several answers together with one set of weights."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn.functional import pad

from nestling.models.columns import append_rows, cut_columns, fill_columns, has_columns
from nestling.models.functional import FunctionalModel
from nestling.models.hf import HopeForCausalLM
from nestling.serve.added import Added, Additions
from nestling.serve.sampling import Draw

Weights = Mapping[str, Tensor]
FILL = 0  # padding token; it is masked
APART = 256  # maximum difference in tokens between two batches, or the length of the shorter


class Batch:
    """Prompts of different lengths, left-padded and masked, generated one token at a time.

    Each row computes what it computes alone, up to the order of summation: logits differ by
    rounding (``tests/serve/test_batch.py::test_batched_row_equals_single_row``).
    """

    def __init__(
        self,
        reader: FunctionalModel,
        weights: Weights,
        prompts: Sequence[Sequence[int]],
        draws: Sequence[Draw],
        added: Sequence[Added | None] = (),
    ):
        self.reader, self.weights = reader, weights
        self.added = Additions(added or [None] * len(prompts))  # each row's own
        self.draws = list(draws)
        longest = max(map(len, prompts))
        device = reader.model.device
        rows = [[FILL] * (longest - len(ids)) + list(ids) for ids in prompts]
        seen = [[0] * (longest - len(ids)) + [1] * len(ids) for ids in prompts]
        self._next: Int[Tensor, "B T"] = torch.tensor(rows, device=device)
        self._mask: Int[Tensor, "B L"] = torch.tensor(seen, device=device)
        self._cache: Any = None

    def __len__(self) -> int:
        return len(self.draws)

    @torch.no_grad()
    def step(self) -> list[int]:
        """The next token of every row."""
        logits = self.logits()
        chosen = [draw(row) for draw, row in zip(self.draws, logits, strict=True)]
        self._next = torch.tensor(chosen, device=self._next.device)[:, None]
        self._mask = torch.cat((self._mask, self._mask.new_ones(len(chosen), 1)), 1)
        return chosen

    def logits(self) -> Tensor:
        """Logits [B, V] of the next token, given all tokens chosen so far."""
        ids, mask = self._next, self._mask
        given: dict[str, Any] = {
            "input_ids": ids,
            "attention_mask": mask,
            "past_key_values": self._cache,
            "use_cache": True,
            "logits_to_keep": 1,
        }
        if not isinstance(self.reader.model, HopeForCausalLM):  # it derives positions from the mask
            given["position_ids"] = (mask.cumsum(1) - 1).clamp_min(0)[:, -ids.shape[1] :]
        with self.added.to(self.reader.model):
            out = self.reader.call(self.weights, lambda model: model(**given))
        self._cache = out.past_key_values
        return out.logits[:, -1]

    def keep(self, rows: Sequence[int]) -> None:
        """Keep only these rows."""
        if len(rows) == len(self):
            return
        chosen = torch.tensor(rows, device=self._next.device, dtype=torch.long)
        self.draws = [self.draws[row] for row in rows]
        self._next, self._mask = self._next[chosen], self._mask[chosen]
        self.added.keep(rows)
        if self._cache is not None:
            self._cache.batch_select_indices(chosen)
            self._trim()

    def joins(self, other: "Batch") -> bool:
        """Whether the rows of another batch with the same weights can join this one.

        Both must have read their prompts, and their caches must hold just keys and values.
        """
        if not (has_columns(self._cache) and has_columns(other._cache)):
            return False
        short, long = sorted((self._mask.shape[1], other._mask.shape[1]))
        return long - short <= max(APART, short)

    def join(self, other: "Batch") -> None:
        """Take over the rows of another batch, which must not be used afterwards."""
        for one, length in ((self, other._mask.shape[1]), (other, self._mask.shape[1])):
            one._widen(max(0, length - one._mask.shape[1]))
        append_rows(self._cache, other._cache)
        self._next = torch.cat((self._next, other._next))
        self._mask = torch.cat((self._mask, other._mask))
        self.draws += other.draws
        self.added.join(other.added)

    def _widen(self, columns: int) -> None:
        """Pad on the left."""
        self._mask = pad(self._mask, (columns, 0))
        fill_columns(self._cache, columns)

    def _trim(self) -> None:
        """Drop columns that no row needs."""
        if has_columns(self._cache) and (first := int(self._mask.any(0).int().argmax())):
            self._mask = self._mask[:, first:]
            cut_columns(self._cache, first)
