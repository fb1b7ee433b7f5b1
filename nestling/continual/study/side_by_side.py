"""Many short prompts after one text, packed in one row and separated by a mask, without copies."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nestling.continual.study.body import Ids, takes_masks
from nestling.continual.study.side import neighbours
from nestling.continual.study.speaker import OneByOne, Score, Speaker, Told, scored
from nestling.models.functional import FunctionalModel

ROW = 384  # tokens scored in one call
LINES = 2048  # tokens generated in one call, prompts included; few cost as much as many
CLOSE = 1e-3  # maximum difference between both implementations, nats


class SideBySide(Speaker):
    """A transformers model that accepts a 4-D attention mask."""

    @torch.no_grad()
    def scores(
        self, told: Told, asked: Sequence[tuple[Ids, Ids]], weights: Mapping[str, Tensor] = {}
    ) -> list[Score]:
        """As many as fit in a row; one call per row."""
        found: list[Score] = []
        for part in neighbours([len(p) + len(a) - 1 for p, a in asked], ROW):
            own = asked[part]
            texts = [(*prompt, *answer[:-1]) for prompt, answer in own]
            places, first = [], 0
            for text, (_, answer) in zip(texts, own, strict=True):
                first += len(text)
                places += range(first - len(answer), first)
            hidden, _ = self._read(told, texts, weights)
            logits = self._head(hidden[torch.tensor(places, device=self.device)])
            rows = logits.split([len(answer) for _, answer in own])
            found += [scored(row, answer) for row, (_, answer) in zip(rows, own, strict=True)]
        return found

    @torch.no_grad()
    def said(
        self,
        told: Told,
        prompts: Sequence[Ids],
        *,
        most: int,
        stop: frozenset[int],
        weights: Mapping[str, Tensor] = {},
        after: Sequence[Ids] = (),
    ) -> list[Ids]:
        """All prompts in a row get one token per call."""
        found: list[Ids] = []
        heads = list(after) or [()] * len(prompts)
        sizes = [len(h) * (not n or h != heads[n - 1]) for n, h in enumerate(heads)]
        rooms = [size + len(prompt) + most for size, prompt in zip(sizes, prompts, strict=True)]
        for part in neighbours(rooms, LINES):
            found += self._said(told, heads[part], prompts[part], most, stop, weights)
        return found

    def _said(
        self,
        told: Told,
        heads: Sequence[Ids],
        prompts: Sequence[Ids],
        most: int,
        stop: frozenset[int],
        weights: Mapping[str, Tensor],
    ) -> list[Ids]:
        count, shared = len(prompts), list(dict.fromkeys(head for head in heads if head))
        behind = [shared.index(head) if head else -1 for head in heads]
        parents = torch.tensor([*[-1] * len(shared), *behind], device=self.device)
        hidden, cache = self._read(told, [*shared, *prompts], weights, parents)
        own = self._numbered([*shared, *prompts])
        ends = torch.tensor([len(text) for text in (*shared, *prompts)], device=self.device)
        last = (ends.cumsum(0) - 1)[len(shared) :]
        places = len(told.ids) + torch.tensor(
            [len(head) + len(prompt) for head, prompt in zip(heads, prompts, strict=True)],
            device=self.device,
        )
        tokens = self._head(hidden[last]).argmax(-1)
        added = torch.arange(len(shared), len(shared) + count, device=self.device)
        lines: list[list[int]] = [[] for _ in prompts]
        open_lines = set(range(count))
        for number in range(most):
            for line in sorted(open_lines):
                if int(tokens[line]) in stop:
                    open_lines.discard(line)
                else:
                    lines[line].append(int(tokens[line]))
            if not open_lines or number == most - 1:
                break
            own = torch.cat([own, added])
            mask = self._seen(told, own, added, parents[added])
            out = self._call(tokens[None], mask, (places + number)[None], cache, weights)
            tokens = self._head(out).argmax(-1)
        return [tuple(line) for line in lines]

    def _numbered(self, texts: Sequence[Ids]) -> Tensor:
        """The text that each position of a row belongs to."""
        lengths = torch.tensor([len(text) for text in texts], device=self.device)
        return torch.repeat_interleave(torch.arange(len(texts), device=self.device), lengths)

    def _seen(self, told: Told, own: Tensor, mine: Tensor, parent: Tensor) -> Tensor:
        """The attention mask: each text sees the shared text, itself, and its parent (-1: none)."""
        told_all = torch.ones(len(mine), len(told.ids), dtype=torch.bool, device=self.device)
        near = (own[None] == mine[:, None]) | (own[None] == parent[:, None])
        return torch.cat([told_all, near], 1)[None, None]

    def _read(
        self,
        told: Told,
        texts: Sequence[Ids],
        weights: Mapping[str, Tensor],
        parents: Int[Tensor, " N"] | None = None,
    ) -> tuple[Tensor, Any]:
        """The last hidden states of packed texts after the shared text, and the cache.

        A text may continue an earlier one, its parent.
        """
        lengths = torch.tensor([len(text) for text in texts], device=self.device)
        parents = torch.full_like(lengths, -1) if parents is None else parents
        own = self._numbered(texts)
        first = lengths.cumsum(0) - lengths
        order = torch.arange(len(own), device=self.device)
        begin = len(told.ids) + torch.where(parents < 0, 0, lengths[parents]) - first
        ids = torch.tensor([[i for text in texts for i in text]], device=self.device)
        cache = self.reader.cache(told.context)
        mask = self._seen(told, own, own, parents[own])
        mask[..., len(told.ids) :] &= order[:, None] >= order[None]
        return self._call(ids, mask, (order + begin[own])[None], cache, weights), cache

    def _call(
        self,
        ids: Int[Tensor, "1 T"],
        mask: Tensor,
        places: Int[Tensor, "1 T"],
        cache: Any,
        weights: Mapping[str, Tensor],
    ) -> Float[Tensor, "T D"]:
        return self.reader.call(
            weights,
            lambda model: model.base_model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=places,
                past_key_values=cache,
                use_cache=True,
            ).last_hidden_state[0],
        )

    def _head(self, hidden: Float[Tensor, "N D"]) -> Float[Tensor, "N V"]:
        return self.reader.model.get_output_embeddings()(hidden).float()


def speaker(reader: FunctionalModel) -> Speaker:
    """The fastest speaker that agrees with the model."""
    plain = OneByOne(reader)
    if not takes_masks(reader.model):
        return plain
    try:
        fast = SideBySide(reader)
        return fast if _agree(fast, plain) else plain
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError):
        return plain  # the inside of third-party models may raise anything


def _agree(fast: Speaker, plain: Speaker) -> bool:
    size = fast.reader.model.config.vocab_size
    drawn = tuple((7 * i + 3) % size for i in range(16))
    asked = [(drawn[4:7], drawn[7:9]), (drawn[9:10], drawn[10:12])]
    told = plain.told(drawn[:4])
    found = [each.scores(told, asked) for each in (fast, plain)]
    return all(
        bool((one.nats - two.nats).abs().max() <= CLOSE) for one, two in zip(*found, strict=True)
    )
