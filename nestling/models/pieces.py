"""Read a text in pieces with any transformers model, with the same result as reading it whole.

Caches cannot be trusted with pieces of any size: some models restart their recurrence at every
piece of more than one token, some miscount positions, some call the cache by another name or return
none. Therefore a short text is first read whole and in pieces, and the model is then used in the
first way in which both agree.
"""

import inspect
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nestling.core.error import UserError
from nestling.core.named import traceable
from nestling.models.held import Held
from nestling.models.roomy import roomy

NAMES = ("past_key_values", "cache_params", "state")  # names under which models pass their cache
PROBE = 40  # tokens of the short text
LEAST = 12  # tokens that are enough to test all kinds of pieces
# as a fraction of the spread of the logits; an unused cache causes differences of a tenth and more
TOLERANCE = {torch.float16: 0.05, torch.bfloat16: 0.1}
FINE = 1e-3  # the same in float32 and finer
STRAYS = 0.25  # fraction of positions that may differ in half precision, e.g. by another expert


@traceable
class Way(NamedTuple):
    """A way to read with a model in pieces."""

    name: str | None  # name of its cache; None: no cache, the whole text is read at every piece
    steps: bool = False  # after the first piece, one token per call
    positions: bool = False  # positions must be passed to the model
    single: bool = True  # a single token can be read like a piece of several
    writes_on: bool = False  # generate can continue from the cache


WHOLE = Way(None)


class Pieces:
    """Calls a transformers model, once for each piece of a text.

    ``text`` are the token ids read to find a way that works; ``horizon`` is the model's longest
    context. If a model's predictions for the beginning of a text depend on the rest, the first call
    raises UserError: it looks ahead, or samples.
    """

    def __init__(
        self, model: Any, *, text: Sequence[int], horizon: int | None = None, name: str = ""
    ):
        self.model, self.name = model, name
        size = min(PROBE, horizon or PROBE)
        copies = 1 + size // max(1, len(text))
        self.text = (list(text) * copies)[:size]
        self.takes = inspect.signature(model.forward).parameters

    def __call__(
        self, ids: Int[Tensor, "B S"], held: Held | None, *, last: bool = False
    ) -> tuple[Float[Tensor, "B _ V"], Held]:
        """The logits of a piece (``last``: of its last position); updates ``held`` in place.

        With None the piece begins a text.
        """
        held = Held(ids[:, :0]) if held is None else held
        return self._read(self.way, ids, held, last), held

    @cached_property
    def way(self) -> Way:
        """The first way in which pieces give the same result as the whole."""
        # two rows, since some models mix them up
        ids = torch.tensor([self.text, self.text[::-1]], device=self.model.device)
        begin = ids.shape[1] // 4
        try:
            whole = self._read(WHOLE, ids, Held(ids[:, :0]))
            first = self._read(WHOLE, ids[:, :begin], Held(ids[:, :0]))
        except Exception as error:  # a model of another library may raise anything
            raise UserError(
                f"{self.name} does not work as a causal language model ({brief(error)})"
            ) from error
        if apart(first, whole[:, :begin]) > 0.5:
            raise UserError(
                f"the predictions of {self.name} for the start of a text change with what follows: "
                "it looks ahead or is random, so it cannot be measured token by token; use a "
                "causal language model"
            )
        if ids.shape[1] < LEAST:
            return WHOLE
        several, single = (begin, 2, begin - 1), (begin, *[1] * (begin // 2))
        for way in self._ways():
            if held := self._read_alike(way, ids, whole, single if way.steps else several):
                known = way.name != NAMES[0] or held.kept.get_seq_length() == held.ids.shape[1]
                alone = self._read_alike(way, ids, whole, single) is not None
                return way._replace(single=alone, writes_on=known)
        return WHOLE

    def _ways(self) -> Iterator[Way]:
        open_ended = any(kind.kind is kind.VAR_KEYWORD for kind in self.takes.values())
        names = [name for name in NAMES if name in self.takes] or list(NAMES[:1] * open_ended)
        told = (True, False) if "position_ids" in self.takes else (False,)
        for name in names:
            for steps in (False, True):
                yield from (Way(name, steps=steps, positions=positions) for positions in told)

    def _read_alike(self, way: Way, ids: Tensor, whole: Tensor, cuts: Sequence[int]) -> Held | None:
        """The cache after pieces of these sizes; None if they differ from the whole."""
        held, found = Held(ids[:, :0]), []
        try:
            for piece in ids[:, : sum(cuts)].split(list(cuts), 1):
                found.append(self._read(way, piece, held))
        except Exception:  # this model cannot be read this way
            return None
        allowed = STRAYS if whole.dtype in TOLERANCE else 0.0
        return held if apart(torch.cat(found, 1), whole[:, : sum(cuts)]) <= allowed else None

    @torch.no_grad()
    def _read(self, way: Way, ids: Tensor, held: Held, last: bool = False) -> Tensor:
        """The logits of a piece; updates ``held``."""
        seen, width = held.ids, ids.shape[1]
        held.ids = torch.cat([seen, ids], 1)
        if way.name is None:
            return self._call(way, held.ids, None, 0, 1 if last else width)[0]
        if seen.shape[1] == 0:
            logits, kept = self._call(way, ids, None, 0, 1 if last else width)
            held.kept = roomy(kept)
            return logits
        if way.steps:
            found = [self._step(way, held, at) for at in range(seen.shape[1], held.ids.shape[1])]
            return found[-1] if last else torch.cat(found, 1)
        if width == 1 and not way.single and held.waits == 0:
            # read in a batch of two on a copy, and again with the next piece
            other, held.waits = held.fork().kept, 1
            twice = self._call(way, ids.expand(-1, 2).clone(), other, seen.shape[1], 2)[0]
            return twice[:, :1]
        begin = seen.shape[1] - held.waits
        logits, held.kept = self._call(
            way, held.ids[:, begin:], held.kept, begin, 1 if last else width
        )
        held.waits = 0
        return logits

    def _step(self, way: Way, held: Held, at: int) -> Tensor:
        logits, held.kept = self._call(way, held.ids[:, at : at + 1], held.kept, at, 1)
        return logits

    def _call(self, way: Way, ids: Tensor, kept: Any, begin: int, keep: int) -> tuple[Tensor, Any]:
        """One call of the model: the logits of the last ``keep`` tokens, and its cache."""
        options: dict[str, Any] = {"use_cache": way.name is not None}
        options |= {"logits_to_keep": keep if keep < ids.shape[1] else 0}
        options = {name: value for name, value in options.items() if name in self.takes}
        if way.name is not None:
            options[way.name] = kept
        if way.positions and begin:
            places = torch.arange(begin, begin + ids.shape[1], device=ids.device)
            options["position_ids"] = places.expand(len(ids), -1)
        out = self.model(input_ids=ids, **options)
        return out.logits[:, -keep:], None if way.name is None else out[way.name]

    @cached_property
    def pads(self) -> bool:
        """Whether a left-padded row gives the same result as by itself."""
        alone = torch.tensor([self.text], device=self.model.device)
        fill = len(self.text) // 4
        ids = torch.cat([alone[:, :fill], alone[:, :-fill]], 1)
        mask = torch.ones_like(ids)
        mask[:, :fill] = 0
        options: dict[str, Any] = {"attention_mask": torch.cat([torch.ones_like(mask), mask])}
        if "position_ids" in self.takes:
            options["position_ids"] = (options["attention_mask"].cumsum(1) - 1).clamp(min=0)
        if self.way.name != NAMES[0] or self.way.steps:
            return False
        with torch.no_grad():
            found = self.model(input_ids=torch.cat([alone, ids]), **options).logits[1:, fill:]
            return apart(found, self.model(input_ids=alone[:, :-fill]).logits) == 0

    def write(self, ids: Int[Tensor, "1 S"], held: Held | None, **generation: Any) -> list[int]:
        """Token ids that the model generates after ``held`` and ``ids``.

        Continues from the cache if the way ``writes_on``; otherwise everything is read again.
        """
        given = ids if held is None else torch.cat([held.ids, ids], 1)
        options: dict[str, Any] = {"use_cache": self.way.name is not None}
        if self.way.writes_on and held is not None:
            assert self.way.name is not None
            options[self.way.name] = held.kept
            if self.way.name != NAMES[0]:  # generate does not know how much such a cache has read
                given = torch.cat([held.waiting, ids], 1)
        mask = torch.ones_like(given)
        found = self.model.generate(given, attention_mask=mask, **options, **generation)
        return found[0, given.shape[1] :].tolist()


def apart(found: Float[Tensor, "B T V"], wanted: Float[Tensor, "B T V"]) -> float:
    """The fraction of positions whose logits differ by more than rounding."""
    tolerance = TOLERANCE.get(wanted.dtype, FINE)
    sure = wanted.isfinite()
    spread = wanted[sure].float().std()
    near = (found.float() - wanted.float()).abs() <= tolerance * spread
    same = torch.where(sure, near, found == wanted).all(-1)
    return 1 - float(same.float().mean())


def brief(error: Exception) -> str:
    """The beginning of another library's error message."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
