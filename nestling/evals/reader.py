"""Reads texts with any causal language model, in segments, carrying its memory along."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from nestling.core.error import UserError
from nestling.data import frame
from nestling.models.decode import write_on
from nestling.models.foreign import horizon_of, load_causal_lm
from nestling.models.held import Held, size_of
from nestling.models.hf import HopeForCausalLM
from nestling.models.pieces import Pieces

SEGMENT = 512  # tokens per call
# text used once to test whether a transformers model can read in segments
PROSE = (
    "The keeper of the light wrote down what came: three ships before noon, a storm at 17:40, and "
    "then, for the first time in that year, nothing at all. Who was to read it, he never asked."
)
COPIES = 2**30  # bytes of copies of a memory that score continuations in parallel


class Reader:
    """A model and its tokenizer: token losses, scores and continuations of texts of any length.

    A text is read in segments of ``segment`` tokens, and the model's state is carried from one to
    the next. So RAM is needed for one segment and for the state, which has a constant size in most
    of our models and grows with the text for attention. ``horizon`` is the number of tokens that
    the model can read: None for our models, the number of positions of a model that has a fixed
    number of them.
    """

    def __init__(self, model: Any, tokenizer: Any, *, name: str = "", segment: int = SEGMENT):
        if segment < 1:
            raise UserError(f"segment is {segment}; give at least 1 token")
        self.model, self.tokenizer = model, tokenizer
        self.name, self.segment = name, segment
        self.ours = isinstance(model, HopeForCausalLM)
        self.horizon: int | None = None if self.ours else horizon_of(model)
        self.lead: list[int] = frame(tokenizer).before
        self.pieces = (
            None
            if self.ours
            else Pieces(model, text=self.encode(PROSE), horizon=self.horizon, name=name)
        )

    @classmethod
    def load(cls, directory: str | Path, device: str = "cpu", *, segment: int = SEGMENT):
        """A reader for the model in a folder, or anything else that ``load_causal_lm`` accepts."""
        model, tokenizer = load_causal_lm(Path(directory), device)
        return cls(model, tokenizer, name=str(directory), segment=segment)

    @property
    def start(self) -> list[int]:
        """The tokens before a text: those of the tokenizer, else its begin or end token."""
        if self.lead:
            return self.lead
        for token in (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id):
            if token is not None:
                return [token]
        raise UserError(f"the tokenizer of {self.name} has neither a bos nor an eos token; set one")

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        """Token ids of a text, without special tokens around it.

        Special tokens spelt out in the text are ordinary text, or with ``special`` those tokens, as
        needed for chat templates.
        """
        split = not special
        found = self.tokenizer(text, add_special_tokens=False, split_special_tokens=split)
        return found["input_ids"]

    def decode(self, ids: list[int]) -> str:
        """The text of token ids, without special tokens."""
        return self.tokenizer.decode(ids, skip_special_tokens=True)

    def losses(self, ids: Int[Tensor, "B T"], cache: Any = None) -> Iterator[Float[Tensor, "B S"]]:
        """Yield the loss (nats) of every token of ``ids`` but the first, a segment at a time.

        With ``cache`` the text continues what it has read; it is updated in place. Rows may be
        padded on the right, which does not change anything before.
        """
        for logits, targets in self.predictions(ids, cache):
            losses = functional.cross_entropy(
                logits.float().flatten(0, 1), targets.to(logits.device).flatten(), reduction="none"
            )
            yield losses.view(targets.shape).cpu()

    def predictions(
        self, ids: Int[Tensor, "B T"], cache: Any = None
    ) -> Iterator[tuple[Float[Tensor, "B S V"], Int[Tensor, "B S"]]]:
        """Yield (logits, tokens) for every token of ``ids`` but the first, by segment."""
        for inputs, targets in zip(
            ids[:, :-1].split(self.segment, 1), ids[:, 1:].split(self.segment, 1), strict=True
        ):
            logits, cache = self.call(inputs, cache)
            yield logits, targets

    def read(self, ids: Int[Tensor, "B T"], cache: Any = None) -> tuple[Float[Tensor, "B V"], Any]:
        """The logits after a text, and the memory after it; ``cache`` is updated in place."""
        logits = None
        for piece in ids.split(self.segment, dim=1):
            logits, cache = self.call(piece, cache, last=True)
        if logits is None:
            raise ValueError(f"ids is {list(ids.shape)}: there are no tokens to read")
        return logits[:, -1], cache

    @torch.no_grad()
    def call(
        self, ids: Int[Tensor, "B T"], cache: Any, *, last: bool = False
    ) -> tuple[Float[Tensor, "B S V"], Any]:
        """The logits of one segment (``last``: of its last position), and the memory after it.

        Raises UserError for a model without logits for every token.
        """
        ids = ids.to(self.model.device)
        if self.pieces is not None:
            return self.pieces(ids, cache, last=last)
        out = self.model(
            input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1 if last else 0
        )
        return out.logits, out.past_key_values

    @staticmethod
    def fork(cache: Any) -> Any:
        """An independent copy of a memory."""
        return cache.fork()

    def score(
        self, cache: Any, logits: Float[Tensor, "1 V"], continuations: list[list[int]]
    ) -> list[tuple[float, bool]]:
        """The log-probability of each continuation, and whether greedy decoding would give it.

        ``cache`` and ``logits`` are those of ``read`` over the text before; neither is changed.
        """
        step = max(1, COPIES // max(1, size_of(cache)))
        if isinstance(cache, Held) and not cache.repeats:
            step = 1
        if len(continuations) > step:
            parts = [continuations[i : i + step] for i in range(0, len(continuations), step)]
            return [found for part in parts for found in self.score(cache, logits, part)]
        rows, width = len(continuations), max(map(len, continuations))
        ids = torch.zeros(rows, width, dtype=torch.long)
        for row, tokens in enumerate(continuations):
            ids[row, : len(tokens)] = torch.tensor(tokens)
        parts = [logits[:, None].expand(rows, -1, -1)]
        if width > 1:
            own = self.fork(cache)
            if rows > 1:
                own.batch_repeat_interleave(rows)
            for piece in ids[:, :-1].split(self.segment, 1):
                found, own = self.call(piece, own)
                parts.append(found)
        words = torch.cat(parts, 1).float().log_softmax(-1).cpu()
        chosen = words.gather(-1, ids[..., None])[..., 0]
        likeliest = words.argmax(-1) == ids
        return [
            (float(chosen[row, : len(tokens)].sum()), bool(likeliest[row, : len(tokens)].all()))
            for row, tokens in enumerate(continuations)
        ]

    def write(
        self,
        ids: list[int],
        *,
        tokens: int,
        stops: tuple[str, ...] = (),
        cache: Any = None,
        **generation: Any,
    ) -> str:
        """Generate at most ``tokens`` tokens after ``ids``, greedily by default.

        With ``cache``, ``ids`` continue what it has read. The text ends before the first of
        ``stops``. ``generation`` are options of transformers' ``generate``, such as ``do_sample``
        and ``temperature``. Raises UserError for beam search with a cache.
        """
        given = torch.tensor([ids], device=self.model.device)
        beams = generation.get("num_beams", 1) > 1
        if beams and cache is not None:
            raise UserError("beam search cannot continue from a memory; use num_beams=1")
        onward = not beams and (self.pieces is None or self.pieces.way.writes_on)
        if onward and len(ids) > 1:
            _, cache = self.read(given[:, :-1], cache)
            given = given[:, -1:]
        options = self._options(tokens, stops) | generation
        if self.pieces is not None:
            written = self.pieces.write(given, cache, **options)
        elif beams:
            written = self.model.generate(given, **options)[0, given.shape[1] :].tolist()
        else:
            cache = self.model.new_cache() if cache is None else cache
            written = write_on(self.model, given, cache, **options)[0, given.shape[1] :].tolist()
        return cut(self.decode(written), stops)

    def write_rows(
        self,
        rows: Sequence[list[int]],
        *,
        tokens: int,
        stops: tuple[str, ...] = (),
        **generation: Any,
    ) -> list[str]:
        """``write`` for many texts at once, each with an empty memory, padded on the left.

        A model affected by padding (see ``pads``) generates them one after another.
        """
        if not self.pads:
            options: dict[str, Any] = {"tokens": tokens, "stops": stops, **generation}
            return [self.write(ids, **options) for ids in rows]
        width = max(map(len, rows))
        ids = torch.zeros(len(rows), width, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for place, row in enumerate(rows):
            ids[place, width - len(row) :] = torch.tensor(row)
            mask[place, width - len(row) :] = 1
        found = self.model.generate(
            ids.to(self.model.device),
            attention_mask=mask.to(self.model.device),
            **(self._options(tokens, stops) | generation),
        )
        return [cut(self.decode(row), stops) for row in found[:, width:].tolist()]

    @property
    def pads(self) -> bool:
        """Whether rows can be left-padded: masked positions there have no effect."""
        return self.pieces is None or self.pieces.pads

    def _options(self, tokens: int, stops: tuple[str, ...]) -> dict[str, Any]:
        """Options of ``generate``: greedy, up to an end token or one of ``stops``."""
        begin: list[int] = []  # number of tokens before the first generated one

        def stopped(found: Tensor, scores: Any) -> Tensor:
            begin[:] = begin or [found.shape[1] - 1]
            texts = [self.decode(row) for row in found[:, begin[0] :].tolist()]
            ends = [any(stop in text for stop in stops) for text in texts]
            return found.new_tensor(ends, dtype=torch.bool)

        given = self.model.generation_config.eos_token_id
        ends = {*([given] if isinstance(given, int) else given or [])}
        ends |= {self.tokenizer.eos_token_id} - {None}
        return {
            "max_new_tokens": tokens,
            "do_sample": False,
            "eos_token_id": sorted(ends) or None,
            "pad_token_id": self.tokenizer.eos_token_id,
            "stopping_criteria": [stopped],
        }

    def about(self) -> dict[str, Any]:
        """The description of the model for a Result."""
        return {
            "model": self.name,
            "kind": self.model.config.model_type,
            "num_parameters": self.model.num_parameters(),
            "architecture": self.model.config.to_dict(),
        }


def cut(text: str, stops: Sequence[str]) -> str:
    """Cut a text before the first of ``stops``; empty stops are ignored.

    >>> cut("one; two. three", [".", ";", ""])
    'one'
    """
    for stop in filter(None, stops):
        text = text.split(stop)[0]
    return text
